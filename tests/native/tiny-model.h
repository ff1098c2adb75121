#pragma once

// shared by the native tests: a tiny model with random weights, contexts on it, tokens

#include "capkv.h"
#include "ggml-backend.h"
#include "gguf.h"
#include "llama-cpp.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

static constexpr int32_t TINY_N_VOCAB = 128;

// there is nothing to compute
static inline bool tiny_is_view(const ggml_tensor * node) {
    return node->op == GGML_OP_RESHAPE || node->op == GGML_OP_VIEW || node->op == GGML_OP_PERMUTE || node->op == GGML_OP_TRANSPOSE;
}

// as assert(), but in every build
#define CHECK(x)                                                             \
    do {                                                                     \
        if (!(x)) {                                                          \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #x); \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static inline void tiny_set_tensor(ggml_tensor * t, void * ud) {
    uint32_t seed = *(const uint32_t *) ud;
    for (const char * c = t->name; *c; ++c) {
        seed = seed*31 + (unsigned char) *c;
    }
    std::mt19937 rng(seed);
    std::normal_distribution<float> dist(0.0f, 2.0f/std::sqrt((float) t->ne[0]));

    const bool is_norm = strstr(t->name, "norm") != nullptr;

    std::vector<float> data(ggml_nelements(t));
    for (auto & x : data) {
        x = is_norm ? 1.0f : dist(rng);
    }
    ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
}

// arch: "llama", or "gemma3" with a sliding window of 32 in 5 of its 6 layers
static inline llama_model_ptr tiny_model(
        const std::string & arch, uint32_t seed, uint32_t n_embd_head, llama_model_params params, uint32_t n_head = 4) {
    std::unique_ptr<gguf_context, void (*)(gguf_context *)> meta(gguf_init_empty(), gguf_free);

    auto set_u32 = [&](const char * key, uint32_t val) { gguf_set_val_u32(meta.get(), (arch + "." + key).c_str(), val); };

    gguf_set_val_str(meta.get(), "general.architecture", arch.c_str());
    gguf_set_val_str(meta.get(), "tokenizer.ggml.model", "no_vocab");
    set_u32("vocab_size", TINY_N_VOCAB);
    set_u32("context_length", 4096);
    set_u32("embedding_length", 64);
    set_u32("block_count", arch == "gemma3" ? 6 : 2);
    set_u32("feed_forward_length", 96);
    set_u32("attention.head_count", n_head);
    set_u32("attention.head_count_kv", 2);
    set_u32("attention.key_length", n_embd_head);
    set_u32("attention.value_length", n_embd_head);
    set_u32("attention.sliding_window", 32);
    set_u32("rope.dimension_count", n_embd_head);
    gguf_set_val_f32(meta.get(), (arch + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);

    params.progress_callback = [](float, void *) { return true; };

    llama_model_ptr res(llama_model_init_from_user(meta.get(), tiny_set_tensor, &seed, params));
    CHECK(res);
    return res;
}

static inline llama_model_ptr tiny_model(
        const std::string & arch = "llama", uint32_t seed = 1, int32_t n_gpu_layers = 0, uint32_t n_embd_head = 16, uint32_t n_head = 4) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    return tiny_model(arch, seed, n_embd_head, params, n_head);
}

// one thread, batches of 32
static inline llama_context_params tiny_context_params(uint32_t n_seq_max = 1) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = 1024*n_seq_max;
    params.n_batch         = 32;
    params.n_ubatch        = 32;
    params.n_seq_max       = n_seq_max;
    params.n_threads       = 1;
    params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.no_perf         = false;
    return params;
}

// budget as text, "0" is off
static inline llama_context_ptr tiny_context(llama_model * model, const llama_context_params & params, const char * budget, const char * policy = "capkv") {
    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget", budget));
    CHECK(capkv_params_set(&kv, "policy", policy));
    capkv_set_next_params(&kv);

    llama_context_ptr res(llama_init_from_model(model, params));
    CHECK(res);
    return res;
}

static inline llama_context_ptr tiny_context(
        llama_model * model, const char * budget, const char * policy = "capkv", uint32_t n_seq_max = 1, ggml_type type_kv = GGML_TYPE_F16) {
    llama_context_params params = tiny_context_params(n_seq_max);
    params.type_k = type_kv;
    params.type_v = type_kv;
    return tiny_context(model, params, budget, policy);
}

static inline std::vector<llama_token> tiny_text(size_t n, uint32_t seed = 0) {
    std::mt19937 rng(seed);
    std::vector<llama_token> res(n);
    for (auto & token : res) {
        token = rng() % TINY_N_VOCAB;
    }
    return res;
}

// reads tokens after those that the sequence holds; returns the last result of llama_decode()
static inline int32_t tiny_read(llama_context * ctx, const std::vector<llama_token> & tokens, llama_seq_id seq_id = 0) {
    llama_batch batch = llama_batch_init(32, 0, 1);

    int32_t res = 0;
    llama_pos pos = llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) + 1;
    for (size_t i = 0; i < tokens.size() && res == 0; i += 32) {
        batch.n_tokens = 0;
        for (size_t j = i; j < tokens.size() && j < i + 32; ++j, ++batch.n_tokens) {
            batch.token[batch.n_tokens]     = tokens[j];
            batch.pos[batch.n_tokens]       = pos++;
            batch.n_seq_id[batch.n_tokens]  = 1;
            batch.seq_id[batch.n_tokens][0] = seq_id;
            batch.logits[batch.n_tokens]    = j + 1 == tokens.size();
        }
        res = llama_decode(ctx, batch);
    }
    llama_batch_free(batch);
    return res;
}

// goes on greedily; fewer than n tokens if llama_decode() fails
static inline std::vector<llama_token> tiny_go_on(llama_context * ctx, size_t n, llama_token first = 5, llama_seq_id seq_id = 0) {
    std::vector<llama_token> res;
    for (llama_token token = first; res.size() < n && tiny_read(ctx, { token }, seq_id) == 0; res.push_back(token)) {
        const float * logits = llama_get_logits_ith(ctx, -1);
        token = 0;
        for (llama_token i = 1; i < TINY_N_VOCAB; ++i) {
            token = logits[i] > logits[token] ? i : token;
        }
    }
    return res;
}

static inline capkv_stats tiny_stats(llama_context * ctx, int32_t seq_id = 0) {
    capkv_stats res;
    CHECK(capkv_get_stats(ctx, seq_id, &res));
    return res;
}

// normalised mean squared error of a against b
static inline double tiny_nmse(const std::vector<float> & a, const std::vector<float> & b) {
    CHECK(a.size() == b.size() && !a.empty());
    double num = 0.0;
    double den = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        num += (a[i] - b[i])*(a[i] - b[i]);
        den += b[i]*b[i];
    }
    return num/den;
}

static inline void tiny_quiet() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
}
