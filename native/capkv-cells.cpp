#include "capkv-cells.h"

#include "llama-impl.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <string>

// in the order of capkv_cells
static constexpr ggml_type capkv_cell_types[] = {
    GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0,
};

// why K and V of a context cannot have a type; empty if they can
static std::string capkv_why_not(const llama_model & model, const llama_context_params & params, ggml_type type) {
    const auto & hparams = model.hparams;

    // as llama_init_from_model() checks it for a type that it is given
    const int64_t n_block = ggml_blck_size(type);
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        for (const uint32_t d : { hparams.n_embd_head_k(il), hparams.n_embd_head_v(il) }) {
            if (d % n_block != 0) {
                return "the heads of " + std::to_string(d) + " are no multiple of its block of " + std::to_string(n_block);
            }
        }
    }

    ggml_context_ptr ctx(ggml_init({ 16*ggml_tensor_overhead(), nullptr, true }));

    for (uint32_t il = 0; il < hparams.n_layer() && params.offload_kqv; ++il) {
        auto * dev = model.dev_layer(il);
        if (!dev || !hparams.has_kv(il) || hparams.n_head_kv(il) == 0) {
            continue;
        }
        ggml_reset(ctx.get());

        const int64_t d_k = hparams.n_embd_head_k(il);
        const int64_t d_v = hparams.n_embd_head_v(il);

        ggml_tensor * q    = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, d_k, 1,   hparams.n_head(il));
        ggml_tensor * k    = ggml_new_tensor_3d(ctx.get(), type,          d_k, 256, hparams.n_head_kv(il));
        ggml_tensor * v    = ggml_new_tensor_3d(ctx.get(), type,          d_v, 256, hparams.n_head_kv(il));
        ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, 256, 1);
        ggml_tensor * row  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, d_k, 1);
        ggml_tensor * idx  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1);

        if (!ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx.get(), ggml_new_tensor_2d(ctx.get(), type, d_k, 256), row, idx)) ||
            !ggml_backend_dev_supports_op(dev, ggml_flash_attn_ext(ctx.get(), q, k, v, mask, 1.0f, 0.0f, 0.0f))) {
            return std::string(ggml_backend_dev_name(dev)) + " cannot store it, or has no flash attention over it";
        }
    }
    return "";
}

void capkv_choose_cells(const llama_model & model, llama_context_params & params, const capkv_params & kv) {
    const ggml_type type = capkv_cell_types[kv.type];

    if (params.type_k != GGML_TYPE_F16 || params.type_v != GGML_TYPE_F16 || type == GGML_TYPE_F16) {
        return;
    }
    const std::string why = capkv_why_not(model, params, type);
    if (!why.empty()) {
        LLAMA_LOG_WARN("%s: K and V are in f16, not in %s: %s\n", __func__, ggml_type_name(type), why.c_str());
        return;
    }
    LLAMA_LOG_INFO("%s: K and V are in %s with a KV budget; --cache-type-k f16 keeps them in f16\n", __func__, ggml_type_name(type));

    params.type_k = type;
    params.type_v = type;
}

void capkv_name_cells(capkv_params & kv, ggml_type type_k) {
    for (uint32_t i = 0; i < sizeof(capkv_cell_types)/sizeof(capkv_cell_types[0]); ++i) {
        if (capkv_cell_types[i] == type_k) {
            kv.type = i;
        }
    }
}
