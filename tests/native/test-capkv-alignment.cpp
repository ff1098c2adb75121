// patches/work-alignment.patch: the work buffer of the CPU backend begins at a cache line, wherever the allocator puts it

#include "tiny-model.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

static constexpr size_t  CACHE_LINE = 64;
static constexpr uint8_t UNTOUCHED  = 0xAA;

// the last block that was allocated while the test looks, which is filled with UNTOUCHED
static bool      g_looks = false;
static uint8_t * g_block = nullptr;
static size_t    g_size  = 0;

// all blocks are 16 bytes behind a cache line, as the C library's large ones are
void * operator new[](size_t n) {
    auto * res = (uint8_t *) std::aligned_alloc(CACHE_LINE, (n + 2*CACHE_LINE - 1)/CACHE_LINE*CACHE_LINE);
    if (!res) {
        throw std::bad_alloc();
    }
    res += 16;
    if (g_looks) {
        memset(res, UNTOUCHED, n);
        g_block = res;
        g_size  = n;
    }
    return res;
}

void operator delete[](void * p) noexcept {
    std::free(p ? (uint8_t *) p - 16 : nullptr);
}

void operator delete[](void * p, size_t) noexcept {
    operator delete[](p);
}

int main() {
    const ggml_backend_ptr backend(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    CHECK(backend);

    const ggml_context_ptr ctx(ggml_init({ 16*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }));

    // the product puts y into the work buffer, in the type that is multiplied with x's
    ggml_tensor * x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_Q8_0, 4096, 4);
    ggml_tensor * y = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 4096, 16);

    ggml_cgraph * gf = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(gf, ggml_mul_mat(ctx.get(), x, y));

    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));
    CHECK(buf);
    ggml_backend_buffer_clear(buf.get(), 0);
    const std::vector<float> ones(ggml_nelements(y), 1.0f);
    ggml_backend_tensor_set(y, ones.data(), 0, ggml_nbytes(y));

    g_looks = true;
    CHECK(ggml_backend_graph_compute(backend.get(), gf) == GGML_STATUS_SUCCESS);
    g_looks = false;

    CHECK(g_block && (uintptr_t) g_block % CACHE_LINE == 16);
    size_t begin = 0;
    while (begin < g_size && g_block[begin] == UNTOUCHED) {
        ++begin;
    }
    CHECK(begin < g_size);
    CHECK((uintptr_t) (g_block + begin) % CACHE_LINE == 0);
    return 0;
}
