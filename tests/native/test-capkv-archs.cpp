// every architecture that a budget is allowed for: tiny models run with evictions, and each layer that the budget governs is
// observed: a query taken before RoPE and rotated again is the query that the attention computes with

#include "tiny-archs.h"

#include "capkv-cache.h"
#include "capkv-memory.h"

#include <algorithm>
#include <cstdio>
#include <set>

static const std::vector<tiny_arch> g_archs = {
    { "llama" },
    { "llama4", 4, { { "expert_count", { 4 } } } },
    { "deci" },
    { "falcon" },
    { "gptneox" },
    { "baichuan" },
    { "stablelm" },
    { "qwen" },
    { "qwen2" },
    { "qwen2moe", 2, { { "expert_count", { 4 } } } },
    { "qwen2vl" },
    { "qwen3" },
    { "qwen3moe", 2, { { "expert_count", { 4 } } } },
    { "qwen3next", 2, { { "expert_count", { 4 } } } },
    { "qwen3vl" },
    { "qwen3vlmoe", 2, { { "expert_count", { 4 } } } },
    { "qwen35" },
    { "qwen35moe", 2, { { "expert_count", { 4 } } } },
    { "phi2" },
    { "phi3" },
    { "phimoe", 2, { { "expert_count", { 4 } } } },
    { "plamo" },
    { "plamo2", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } }, { "ssm.group_count", { 0 } } } },
    { "plamo3" },
    { "codeshell" },
    { "orion" },
    { "internlm2" },
    { "minicpm" },
    { "gemma" },
    { "gemma2" },
    { "gemma3" },
    { "gemma3n" },
    { "gemma4", 6, {
        { "attention.sliding_window_pattern", { 1, 0, 1, 0, 1, 0 } },
        { "embedding_length_per_layer_input", { 32 } },
        { "attention.shared_kv_layers", { 2 } },
        { "attention.key_length_swa", { 16 } },
        { "attention.value_length_swa", { 16 } },
    } },
    { "starcoder2" },
    { "jamba", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } } } },
    { "falcon-h1" },
    { "xverse" },
    { "command-r" },
    { "cohere2" },
    { "cohere2moe", 2, { { "expert_count", { 4 } } } },
    { "dbrx", 2, { { "expert_count", { 4 } } } },
    { "olmo" },
    { "olmo2" },
    { "olmoe", 2, { { "expert_count", { 4 } }, { "attention.head_count_kv", { 4 } } } },
    { "muse-glimmer" },
    { "openelm" },
    { "arctic", 2, { { "expert_count", { 4 } } } },
    { "deepseek", 2, { { "expert_count", { 4 } } } },
    { "chatglm" },
    { "glm4" },
    { "glm4moe", 2, { { "expert_count", { 4 } } } },
    { "bitnet" },
    { "jais" },
    { "jais2" },
    { "nemotron" },
    { "nemotron_h", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } }, { "feed_forward_length", { 0, 0, 96, 0 } } } },
    { "nemotron_h_moe", 4, {
        { "expert_count", { 4 } },
        { "attention.head_count_kv", { 0, 2, 0, 2 } },
        { "feed_forward_length", { 0, 0, 96, 0 } },
    } },
    { "exaone" },
    { "exaone4" },
    { "exaone-moe", 2, { { "expert_count", { 4 } } } },
    { "granite" },
    { "granitemoe" },
    { "granitehybrid", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } } } },
    { "granite_swa", 2, { { "attention.sliding_window_pattern", { 1, 0 } } } },
    { "bailingmoe", 2, { { "expert_count", { 4 } } } },
    { "bailingmoe2", 2, { { "expert_count", { 4 } } } },
    { "dots1", 2, { { "expert_count", { 4 } }, { "attention.head_count_kv", { 4 } } } },
    { "arcee" },
    { "afmoe", 2, { { "expert_count", { 4 } } } },
    { "laguna", 2, { { "expert_count", { 4 } } } },
    { "ernie4_5" },
    { "ernie4_5-moe", 2, { { "expert_count", { 4 } } } },
    { "hunyuan-moe", 2, { { "expert_count", { 4 } } } },
    { "hunyuan-dense" },
    { "hunyuan_vl" },
    { "hy_v3", 2, { { "expert_count", { 4 } } } },
    { "smollm3" },
    { "gpt-oss", 2, { { "expert_count", { 4 } } } },
    { "lfm2", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } }, { "attention.sliding_window", { 0 } } } },
    { "lfm2moe", 4, {
        { "expert_count", { 4 } },
        { "attention.head_count_kv", { 0, 2, 0, 2 } },
        { "attention.sliding_window", { 0 } },
    } },
    { "smallthinker", 2, { { "expert_count", { 4 } } } },
    { "seed_oss" },
    { "grovemoe", 2, { { "expert_count", { 4 } }, { "experts_per_group", { 1 } } } },
    { "apertus" },
    { "minimax-01", 2, { { "expert_count", { 4 } } } },
    { "hrm_text", 6, { { "hrm.layers_per_stack", { 1 } }, { "hrm.h_cycles", { 2 } }, { "hrm.l_cycles", { 2 } } } },
    { "minimax-m2", 2, { { "expert_count", { 4 } } } },
    { "cogvlm" },
    { "pangu-embedded" },
    { "mistral3" },
    { "paddleocr" },
    { "mimo2", 2, { { "expert_count", { 4 } }, { "attention.sliding_window_pattern", { 1, 0 } } } },
    { "step35", 2, { { "expert_count", { 4 } }, { "attention.sliding_window_pattern", { 1, 0 } } } },
    { "spark2_5", 2, { { "attention.sliding_window_pattern", { 1, 0 } } } },
    { "maincoder" },
    { "talkie" },
    { "mellum", 2, { { "expert_count", { 4 } } } },
    { "nanbeige" },
};

// the queries of one token, as the attention got them: of each layer [d_k, n_head], times the scale of its logits
struct seen_queries {
    bool on = false;
    std::map<int, std::vector<float>> of_layer;
};

static bool see_queries(ggml_tensor * t, bool ask, void * ud) {
    auto & seen = *(seen_queries *) ud;
    if (!seen.on || t->op != GGML_OP_FLASH_ATTN_EXT) {
        return false;
    }
    if (ask) {
        return true;
    }

    int il;
    CHECK(t->src[1]->view_src && sscanf(t->src[1]->view_src->name, "cache_k_l%d", &il) == 1);
    if (seen.of_layer.count(il)) {
        return true; // a later layer that reuses the cells of this one
    }

    float scale;
    memcpy(&scale, t->op_params, sizeof(scale));

    const ggml_tensor * q = t->src[0]; // [d_k, 1, n_head]
    CHECK(q->type == GGML_TYPE_F32 && q->ne[1] == 1);

    auto & res = seen.of_layer[il];
    for (int64_t h = 0; h < q->ne[2]; ++h) {
        for (int64_t i = 0; i < q->ne[0]; ++i) {
            res.push_back(*(const float *) ((const char *) q->data + h*q->nb[2] + i*q->nb[0])*scale);
        }
    }
    return true;
}

// the same from what the policy tova has observed of the last token, at pos
static std::vector<float> rotate_observed(const capkv_layer & l, const capkv_observer::layer & seen, llama_pos pos) {
    ggml_init_params init = { 1 << 20, nullptr, /*.no_alloc =*/ true };
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> ctx(ggml_init(init), ggml_free);
    std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> backend(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr), ggml_backend_free);

    ggml_tensor * q     = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, l.d_k, l.n_head, 1);
    const auto    where = seen.rope.pos_data({ pos });
    ggml_tensor * p     = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, where.size());
    ggml_tensor * res   = ggml_scale(ctx.get(), seen.rope.apply(ctx.get(), q, p), seen.kq_scale);

    ggml_cgraph * gf = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(gf, res);

    std::unique_ptr<ggml_backend_buffer, void (*)(ggml_backend_buffer_t)> buf(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()), ggml_backend_buffer_free);

    std::vector<ggml_fp16_t> row(l.d_k*l.n_head);
    std::vector<float>       data(row.size());
    ggml_backend_tensor_get(seen.q_rows, row.data(), 0, row.size()*sizeof(row[0]));
    ggml_fp16_to_fp32_row(row.data(), data.data(), row.size());

    ggml_backend_tensor_set(q, data.data(), 0, ggml_nbytes(q));
    ggml_backend_tensor_set(p, where.data(), 0, ggml_nbytes(p));
    CHECK(ggml_backend_graph_compute(backend.get(), gf) == GGML_STATUS_SUCCESS);

    ggml_backend_tensor_get(res, data.data(), 0, ggml_nbytes(res));
    return data;
}

static void check_evictions(llama_model * model) {
    auto ctx = tiny_context(model, "64", "capkv");
    CHECK(tiny_read(ctx.get(), tiny_text(400)) == 0);
    CHECK(tiny_stats(ctx.get()).n_evictions >= 1);
    CHECK(tiny_go_on(ctx.get(), 8).size() == 8);

    const float * logits = llama_get_logits_ith(ctx.get(), -1);
    CHECK(std::all_of(logits, logits + TINY_N_VOCAB, [](float x) { return std::isfinite(x); }));

    CHECK(capkv_compress(ctx.get(), 0, 48) > 0);
    for (const auto & l : capkv_memory::find(llama_get_memory(ctx.get()))->get_layers()) {
        for (int32_t h = 0; h < l.n_head_kv; ++h) {
            CHECK(capkv_get_positions(ctx.get(), 0, l.il, h, nullptr, 0) == 48);
        }
    }
    CHECK(tiny_go_on(ctx.get(), 8).size() == 8);
}

static void check_queries(const tiny_arch & arch, llama_model * model) {
    seen_queries seen;

    auto params = tiny_context_params();
    params.cb_eval           = see_queries;
    params.cb_eval_user_data = &seen;

    auto ctx = tiny_context(model, params, "64", "tova");
    CHECK(tiny_read(ctx.get(), tiny_text(100)) == 0);
    seen.on = true;
    CHECK(tiny_read(ctx.get(), { 7 }) == 0);

    const auto & cache = *capkv_memory::find(llama_get_memory(ctx.get()));
    for (const auto & l : cache.get_layers()) {
        CHECK(seen.of_layer.count(l.il));
        const double err = tiny_nmse(rotate_observed(l, cache.get_observer().of(l), 100), seen.of_layer[l.il]);
        if (!(err < 1e-6)) {
            fprintf(stderr, "%s: layer %u: the observed query differs, nmse = %g\n", arch.name.c_str(), l.il, err);
            exit(1);
        }
    }
}

// logits of the last token of a text that begins at the position pos0
static std::vector<float> read_from(llama_model * model, const char * reindex, llama_pos pos0, uint64_t & n_reindexes) {
    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget", "256") && capkv_params_set(&kv, "reindex", reindex));
    capkv_set_next_params(&kv);

    auto params = tiny_context_params();
    params.n_ctx  = 8192;
    params.type_k = GGML_TYPE_F32;
    params.type_v = GGML_TYPE_F32;

    llama_context_ptr ctx(llama_init_from_model(model, params));
    CHECK(ctx);

    auto batch = llama_batch_init(1, 0, 1);
    for (const llama_token token : tiny_text(100)) {
        batch.n_tokens     = 1;
        batch.token[0]     = token;
        batch.pos[0]       = pos0++;
        batch.n_seq_id[0]  = 1;
        batch.seq_id[0][0] = 0;
        batch.logits[0]    = 1;
        CHECK(llama_decode(ctx.get(), batch) == 0);
    }
    llama_batch_free(batch);

    const auto stats = tiny_stats(ctx.get());
    CHECK(stats.n_evictions == 0 && stats.n_pos_max == 4096);
    n_reindexes = stats.n_reindexes;

    const float * logits = llama_get_logits_ith(ctx.get(), -1);
    return { logits, logits + TINY_N_VOCAB };
}

// attention depends on distances alone, so a text reads the same when its keys are rotated to lower positions, window layers included.
// It begins at a position from which it passes the trained length
static void check_reindex(const tiny_arch & arch, llama_model * model) {
    // where the scale of the logits depends on the position, or a norm with weights follows the rotation, positions count as well
    for (const char * name : { "llama4", "hunyuan-moe", "hunyuan-dense", "hunyuan_vl", "maincoder" }) {
        if (arch.name == name) {
            return;
        }
    }
    uint64_t n_true, n_new;
    const auto   expected = read_from(model, "never", 4096 - 70, n_true);
    const double err      = tiny_nmse(read_from(model, "auto", 4096 - 70, n_new), expected);

    CHECK(n_true == 0 && n_new == 1);
    if (!(err < 3e-4)) {
        fprintf(stderr, "%s: the logits differ after the keys were rotated, nmse = %g\n", arch.name.c_str(), err);
        exit(1);
    }
}

// a layer that the hooks do not see is refused, with `untested` as well: the attention of this architecture uses no cells
static void check_unseen() {
    const auto model = tiny_arch_model({ "llama-embed" });
    CHECK(model);

    capkv_params kv = capkv_default_params();
    kv.n_budget = 64;
    for (kv.untested = 0; kv.untested < 2; kv.untested++) {
        capkv_set_next_params(&kv);
        CHECK(!llama_init_from_model(model.get(), tiny_context_params()));
        CHECK(strstr(capkv_last_error(), kv.untested ? "the queries of layer 0 are not observed" : "'llama-embed': not tried yet; --kv-untested runs it"));
    }
}

int main() {
    tiny_quiet();

    std::set<std::string> listed;
    for (size_t i = 0; i < capkv_n_archs(); ++i) {
        listed.insert(capkv_get_arch(i));
    }
    CHECK(listed.size() == capkv_n_archs() && !capkv_get_arch(capkv_n_archs()));

    std::set<std::string> run;
    for (const auto & arch : g_archs) {
        fprintf(stderr, "%s\n", arch.name.c_str()); // if the process dies, this says where
        const auto model = tiny_arch_model(arch);
        CHECK(model);
        check_evictions(model.get());
        check_queries(arch, model.get());
        check_reindex(arch, model.get());
        run.insert(arch.name);
    }
    CHECK(run == listed);

    check_unseen();
}
