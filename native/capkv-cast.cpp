#include "capkv-cast.h"

#include "kernels/dequantize.h"

#include "llama-graph.h"

// a device has an attention of its own over quantized cells, and with one among the backends it may run that of any layer
static bool capkv_all_on_host(ggml_backend_sched_t sched) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        const auto type = ggml_backend_dev_type(ggml_backend_get_device(ggml_backend_sched_get_backend(sched, i)));

        if (type != GGML_BACKEND_DEVICE_TYPE_CPU && type != GGML_BACKEND_DEVICE_TYPE_ACCEL) {
            return false;
        }
    }
    return true;
}

// in F32, for all cells of the streams in the batch
static size_t capkv_cast_bytes(const ggml_tensor * x) {
    return sizeof(float)*x->ne[0]*x->ne[2]*x->ne[3]*x->view_src->ne[1];
}

bool capkv_wants_cast(ggml_backend_sched_t sched, const ggml_tensor * k, const ggml_tensor * v, int64_t n_tokens) {
    if (!k->view_src || !v->view_src || (k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16)) {
        return false;
    }

    return n_tokens/k->ne[3] >= CAPKV_CAST_TOKENS && capkv_cast_bytes(k) + capkv_cast_bytes(v) <= CAPKV_CAST_BYTES && capkv_all_on_host(sched);
}

void capkv_cast(const llm_graph_context & g, ggml_tensor *& k, ggml_tensor *& v, int il) {
    if (!capkv_wants_cast(g.sched, k, v, g.n_tokens)) {
        return;
    }

    k = capkv_build_dequantize(g.ctx0, k);
    v = capkv_build_dequantize(g.ctx0, v);

    g.cb(k, "k_f32", il);
    g.cb(v, "v_f32", il);
}
