#pragma once

// tiny models with random weights of many architectures

#include "tiny-model.h"

#include <map>

struct tiny_arch {
    std::string name;
    uint32_t    n_layer = 2;

    // further GGUF keys, without the architecture's name: a number, or one for each layer
    std::map<std::string, std::vector<uint32_t>> more = {};
};

static inline void tiny_arch_tensor(ggml_tensor * t, void * ud) {
    tiny_set_tensor(t, ud);

    // the weights of a norm differ, so that a test sees if one is left out
    if (strstr(t->name, "norm") && ggml_nelements(t) > 1) {
        std::vector<float> data(ggml_nelements(t));
        for (size_t i = 0; i < data.size(); ++i) {
            data[i] = 0.75f + 0.5f*((i*7) % 16)/16;
        }
        ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
    }

    // negative, so that the recurrent state decays
    if (strstr(t->name, "ssm_a")) {
        std::vector<float> data(ggml_nelements(t), -1.0f);
        ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
    }
}

// 4 heads and 2 KV heads of 16; a window of 32 in every other layer where the architecture has one
static inline llama_model_ptr tiny_arch_model(const tiny_arch & arch, uint32_t seed = 1) {
    std::unique_ptr<gguf_context, void (*)(gguf_context *)> meta(gguf_init_empty(), gguf_free);

    auto key = [&](const std::string & name) { return arch.name + "." + name; };

    std::map<std::string, std::vector<uint32_t>> counts = {
        { "vocab_size",                       { TINY_N_VOCAB } },
        { "context_length",                   { 4096 } },
        { "embedding_length",                 { 64 } },
        { "block_count",                      { arch.n_layer } },
        { "feed_forward_length",              { 96 } },
        { "attention.head_count",             { 4 } },
        { "attention.head_count_kv",          { 2 } },
        { "attention.key_length",             { 16 } },
        { "attention.value_length",           { 16 } },
        { "attention.sliding_window",         { 32 } },
        { "attention.sliding_window_pattern", { 2 } },
        { "rope.dimension_count",             { 16 } },
        { "full_attention_interval",          { 2 } },
        { "leading_dense_block_count",        { 1 } },
        { "interleave_moe_layer_step",        { 2 } },
        { "shortconv.l_cache",                { 3 } },
        { "ssm.conv_kernel",                  { 4 } },
        { "ssm.inner_size",                   { 128 } },
        { "ssm.state_size",                   { 32 } },
        { "ssm.time_step_rank",               { 4 } },
        { "ssm.group_count",                  { 2 } },
    };
    for (const auto & item : arch.more) {
        counts[item.first] = item.second;
    }
    if (counts.count("expert_count")) {
        counts["expert_used_count"]                 = { 2 };
        counts["expert_shared_count"]               = { 1 };
        counts["expert_feed_forward_length"]        = { 64 };
        counts["expert_shared_feed_forward_length"] = { 64 };
        counts["expert_gating_func"]                = { 2 };
    }

    gguf_set_val_str(meta.get(), "general.architecture", arch.name.c_str());
    gguf_set_val_str(meta.get(), "tokenizer.ggml.model", "no_vocab");
    for (const auto & item : counts) {
        const auto & values = item.second;
        if (values.size() == 1) {
            gguf_set_val_u32(meta.get(), key(item.first).c_str(), values[0]);
        } else {
            gguf_set_arr_data(meta.get(), key(item.first).c_str(), GGUF_TYPE_UINT32, values.data(), values.size());
        }
    }

    const std::vector<uint32_t> sections = { 4, 2, 2, 0 };
    gguf_set_arr_data(meta.get(), key("rope.dimension_sections").c_str(), GGUF_TYPE_UINT32, sections.data(), sections.size());

    for (const char * name : { "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon" }) {
        gguf_set_val_f32(meta.get(), key(name).c_str(), 1e-5f);
    }
    for (const char * name : { "logit_scale", "residual_scale", "embedding_scale", "attention.clamp_kqv", "expert_weights_scale", "expert_group_scale" }) {
        gguf_set_val_f32(meta.get(), key(name).c_str(), 1.0f);
    }
    for (const char * name : { "xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps" }) {
        gguf_set_val_f32(meta.get(), name, 1.0f);
    }
    gguf_set_val_bool(meta.get(), key("use_parallel_residual").c_str(), false);

    llama_model_params params = llama_model_default_params();
    params.progress_callback = [](float, void *) { return true; };
    params.n_gpu_layers = 0;

    return llama_model_ptr(llama_model_init_from_user(meta.get(), tiny_arch_tensor, &seed, params));
}
