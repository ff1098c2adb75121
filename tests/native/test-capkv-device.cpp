// devices that lack an operation: they are asked before they are given something to compute

#include "tiny-model.h"

#include <dlfcn.h>

static ggml_type g_lacks[] = { GGML_TYPE_COUNT, GGML_TYPE_COUNT }; // the device cannot store rows of f32 as these

extern "C" bool ggml_backend_dev_supports_op(ggml_backend_dev_t device, const ggml_tensor * op) {
    static const auto fn = (decltype(&ggml_backend_dev_supports_op)) dlsym(RTLD_NEXT, "ggml_backend_dev_supports_op");

    for (const ggml_type type : g_lacks) {
        if (op->op == GGML_OP_SET_ROWS && op->type == type) {
            return false;
        }
    }
    // not every device can copy to a quantized type: an eviction has to move cells without that
    if (op->op == GGML_OP_CPY && ggml_is_quantized(op->type)) {
        return false;
    }
    return fn(device, op);
}

static size_t bytes_of_queries(llama_model * model, const char * policy) {
    const auto ctx = tiny_context(model, "64", policy);

    CHECK(tiny_read(ctx.get(), tiny_text(600)) == 0);

    capkv_stats st;
    CHECK(capkv_get_stats(ctx.get(), 0, &st));
    CHECK(st.n_evictions > 0 && st.n_used <= st.n_cells);
    return st.bytes_obs;
}

int main() {
    tiny_quiet();

    // heads of 32: the block size of q8_0
    const auto model = tiny_model("llama", 1, 0, 32);
    const size_t n_embd = 4*32;
    const size_t n_layer = 2;

    // 90 queries and a scratch row in q8_0
    CHECK(bytes_of_queries(model.get(), "capkv") == n_layer*(90 + 1)*ggml_row_size(GGML_TYPE_Q8_0, n_embd));

    // the next type that can be stored, and as many queries as fit in the same bytes
    g_lacks[0] = GGML_TYPE_Q8_0;
    CHECK(bytes_of_queries(model.get(), "capkv") == n_layer*(47 + 1)*ggml_row_size(GGML_TYPE_F16, n_embd));

    g_lacks[1] = GGML_TYPE_F16;
    const auto f32 = tiny_context(model.get(), "64", "capkv", 1, GGML_TYPE_F32);
    CHECK(tiny_read(f32.get(), tiny_text(600)) == 0);
    capkv_stats st;
    CHECK(capkv_get_stats(f32.get(), 0, &st));
    CHECK(st.n_evictions > 0);
    CHECK(st.bytes_obs == n_layer*(23 + 1)*ggml_row_size(GGML_TYPE_F32, n_embd));

    // a cache in q8_0 moves its cells with the operation that stores them
    g_lacks[0] = g_lacks[1] = GGML_TYPE_COUNT;
    const auto q8_0 = tiny_context(model.get(), "64", "capkv", 1, GGML_TYPE_Q8_0);
    CHECK(tiny_read(q8_0.get(), tiny_text(600)) == 0);
    CHECK(capkv_get_stats(q8_0.get(), 0, &st));
    CHECK(st.n_evictions > 0);
}
