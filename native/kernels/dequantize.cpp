#include "dequantize.h"

static void capkv_dequantize_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    GGML_UNUSED(userdata);

    const ggml_tensor * x = dst->src[0];

    const auto to_float = ggml_get_type_traits(x->type)->to_float;

    const int64_t d      = x->ne[0];
    const int64_t n_rows = ggml_nrows(x);
    const int64_t i0     = n_rows*ith/nth;
    const int64_t i1     = n_rows*(ith + 1)/nth;

    for (int64_t i = i0; i < i1; ++i) {
        const int64_t i_cell   = i%x->ne[1];
        const int64_t i_head   = i/x->ne[1]%x->ne[2];
        const int64_t i_stream = i/x->ne[1]/x->ne[2];

        to_float((const char *) x->data + i_cell*x->nb[1] + i_head*x->nb[2] + i_stream*x->nb[3], (float *) dst->data + i*d, d);
    }
}

ggml_tensor * capkv_build_dequantize(ggml_context * ctx, ggml_tensor * x) {
    GGML_ASSERT(ggml_get_type_traits(x->type)->to_float && x->nb[0] == ggml_type_size(x->type) && x->ne[0] % ggml_blck_size(x->type) == 0);

    ggml_tensor * args[] = { x };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2], x->ne[3], args, 1, capkv_dequantize_op, GGML_N_TASKS_MAX, nullptr);
}
