#pragma once

#include <cstddef>
#include <functional>

// call f(i) for each i < n, on up to n_threads threads. If calls throw, one of their exceptions is thrown once all threads have ended
void capkv_parallel(size_t n, int n_threads, const std::function<void(size_t)> & f);
