#include "capkv-parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

void capkv_parallel(size_t n, int n_threads, const std::function<void(size_t)> & f) {
    std::atomic<size_t> next { 0 };
    std::exception_ptr  error;
    std::mutex          mutex;

    auto work = [&] {
        for (size_t i = next++; i < n; i = next++) {
            try {
                f(i);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex);
                error = std::current_exception();
                next  = n;
            }
        }
    };

    std::vector<std::thread> threads;
    threads.reserve(n_threads);
    try {
        for (int i = 1; i < n_threads && (size_t) i < n; ++i) {
            threads.emplace_back(work);
        }
    } catch (const std::system_error &) {
        // no more threads: those that there are do it
    }
    work();

    for (auto & thread : threads) {
        thread.join();
    }
    if (error) {
        std::rethrow_exception(error);
    }
}
