// devices that can do less than the CPU: what they are asked before they are given something to do

#include "tiny-model.h"

#include <dlfcn.h>

static ggml_type g_lacks[] = { GGML_TYPE_COUNT, GGML_TYPE_COUNT }; // rows of f32 cannot be stored as these

extern "C" bool ggml_backend_dev_supports_op(ggml_backend_dev_t device, const ggml_tensor * op) {
    static const auto fn = (decltype(&ggml_backend_dev_supports_op)) dlsym(RTLD_NEXT, "ggml_backend_dev_supports_op");

    for (const ggml_type type : g_lacks) {
        if (op->op == GGML_OP_SET_ROWS && op->type == type) {
            return false;
        }
    }
    // cells move without copies to another type, which not every device has
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

    // heads of 32, so that a row of q8_0 is possible
    const auto model = tiny_model("llama", 1, 0, 32);
    const size_t n_embd = 4*32;
    const size_t n_layer = 2;

    // 90 queries and a scratch row in q8_0
    CHECK(bytes_of_queries(model.get(), "capkv") == n_layer*(90 + 1)*ggml_row_size(GGML_TYPE_Q8_0, n_embd));

    // as many bytes in the next type that can be stored
    g_lacks[0] = GGML_TYPE_Q8_0;
    CHECK(bytes_of_queries(model.get(), "capkv") == n_layer*(47 + 1)*ggml_row_size(GGML_TYPE_F16, n_embd));

    g_lacks[1] = GGML_TYPE_F16;
    const auto f32 = tiny_context(model.get(), "64", "capkv", 1, GGML_TYPE_F32);
    CHECK(tiny_read(f32.get(), tiny_text(600)) == 0);
    capkv_stats st;
    CHECK(capkv_get_stats(f32.get(), 0, &st));
    CHECK(st.n_evictions > 0);
    CHECK(st.bytes_obs == n_layer*(23 + 1)*ggml_row_size(GGML_TYPE_F32, n_embd));

    // a cache in q8_0 moves its cells by the operation that stores them
    g_lacks[0] = g_lacks[1] = GGML_TYPE_COUNT;
    const auto q8_0 = tiny_context(model.get(), "64", "capkv", 1, GGML_TYPE_Q8_0);
    CHECK(tiny_read(q8_0.get(), tiny_text(600)) == 0);
    CHECK(capkv_get_stats(q8_0.get(), 0, &st));
    CHECK(st.n_evictions > 0);
}
