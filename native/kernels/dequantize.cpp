#include "dequantize.h"

#include "cpu-target.h"

// ggml's own functions for this are compiled for every processor
static void capkv_to_f32(ggml_type type, const void * x, float * y, int64_t n) {
    if (type == GGML_TYPE_Q8_0) {
        capkv_cpu_target_current().dequantize_q8_0(x, n, y);
    } else {
        ggml_get_type_traits(type)->to_float(x, y, n);
    }
}

static void capkv_dequantize_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    GGML_UNUSED(userdata);

    const ggml_tensor * x = dst->src[0];

    const int64_t d      = x->ne[0];
    const int64_t n_rows = ggml_nrows(x);
    const int64_t i0     = n_rows*ith/nth;
    const int64_t i1     = n_rows*(ith + 1)/nth;

    for (int64_t i = i0; i < i1; ++i) {
        const int64_t i_cell   = i%x->ne[1];
        const int64_t i_head   = i/x->ne[1]%x->ne[2];
        const int64_t i_stream = i/x->ne[1]/x->ne[2];

        capkv_to_f32(x->type, (const char *) x->data + i_cell*x->nb[1] + i_head*x->nb[2] + i_stream*x->nb[3], (float *) dst->data + i*d, d);
    }
}

ggml_tensor * capkv_build_dequantize(ggml_context * ctx, ggml_tensor * x) {
    GGML_ASSERT(ggml_get_type_traits(x->type)->to_float && x->nb[0] == ggml_type_size(x->type) && x->ne[0] % ggml_blck_size(x->type) == 0);

    ggml_tensor * args[] = { x };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2], x->ne[3], args, 1, capkv_dequantize_op, GGML_N_TASKS_MAX, nullptr);
}

static void capkv_get_rows_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    GGML_UNUSED(userdata);

    const ggml_tensor * x   = dst->src[0];
    const ggml_tensor * idx = dst->src[1];

    const int64_t d      = dst->ne[0];
    const int64_t n      = dst->ne[1];
    const int64_t n_rows = ggml_nrows(dst);

    for (int64_t i = n_rows*ith/nth; i < n_rows*(ith + 1)/nth; ++i) {
        const auto row = *(const int32_t *) ((const char *) idx->data + i%n*idx->nb[0] + i/n*idx->nb[1]);

        capkv_to_f32(x->type, (const char *) x->data + row*x->nb[1] + i/n*x->nb[2], (float *) dst->data + i*d, d);
    }
}

ggml_tensor * capkv_build_get_rows(ggml_context * ctx, ggml_tensor * x, ggml_tensor * idx) {
    if (x->type != GGML_TYPE_Q8_0) {
        return ggml_get_rows(ctx, x, idx);
    }
    GGML_ASSERT(x->nb[0] == ggml_type_size(x->type) && x->ne[2] == idx->ne[1] && x->ne[3] == 1 && idx->type == GGML_TYPE_I32);

    ggml_tensor * args[] = { x, idx };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, x->ne[0], idx->ne[0], idx->ne[1], 1, args, 2, capkv_get_rows_op, GGML_N_TASKS_MAX, nullptr);
}
