// the way of a budget into a context: from capkv_set_next_params() or the environment to the cache that gets it

#include "capkv-hooks.h"

#include "capkv-cells.h"
#include "capkv-options.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

// what this thread's next context gets. It is one object because llama.cpp's own parameters cannot carry it: they are passed by
// value, with a layout that other projects rely on
struct capkv_pending {
    bool         asked = false; // by capkv_set_next_params(); else the environment decides
    capkv_params params;        // what was asked for; resolved once the cache's cells are known

    // while a context with a budget is made
    bool         on       = false;
    capkv_length length;
    uint32_t     n_batch  = 0;
    uint32_t     n_ubatch = 0;
    ggml_type    type_k   = GGML_TYPE_F16;

    // while K and V are allocated: how much, for the error if there is no memory
    uint64_t n_cells     = 0;
    uint64_t bytes_cells = 0;
};

static thread_local capkv_pending g_pending;

void capkv_set_next_params(const capkv_params * params) {
    // a call from within llama_init_from_model(), such as one of a log callback, is too late for this context and ends with it
    if (g_pending.on) {
        return;
    }
    g_pending = {};
    if (params) {
        g_pending.asked  = true;
        g_pending.params = *params;
    }
}

[[noreturn]] static void capkv_throw(const std::string & msg) {
    g_pending.n_cells = 0; // this is why, and not the memory
    capkv_set_last_error(msg);
    throw capkv_error(msg);
}

static void capkv_refuse_arch(const llama_model & model, const std::string & why) {
    capkv_throw("kv_budget is not possible for the architecture '" + model.arch_name() + "': " + why + " (allowed: 0)");
}

static void capkv_check_model(const llama_model & model) {
    const auto & hparams = model.hparams;

    if (llama_model_has_encoder(&model)) {
        capkv_refuse_arch(model, "a model with an encoder has no cache that grows with the text");
    }
    if (llama_model_is_recurrent(&model)) {
        capkv_refuse_arch(model, "a recurrent model has no KV cache, its memory is of fixed size already");
    }
    if (!hparams.causal_attn) {
        capkv_refuse_arch(model, "its attention is not causal");
    }
    if (hparams.is_mla() || model.arch == LLM_ARCH_DEEPSEEK4) {
        capkv_refuse_arch(model, "MLA stores no values of its own to score");
    }
    if (hparams.indexer_head_size > 0 || model.arch == LLM_ARCH_MINIMAX_M3) {
        capkv_refuse_arch(model, "its sparse attention has an index of the cells, which would not follow");
    }
    if (hparams.use_alibi) {
        capkv_refuse_arch(model, "ALiBi needs the true distance of every cell");
    }
    if (model.pos_embd) {
        capkv_refuse_arch(model, "its learned positions end at " + std::to_string(hparams.n_ctx_train) + " tokens");
    }
    if (model.split_mode() == LLAMA_SPLIT_MODE_TENSOR) {
        capkv_throw("split mode = tensor: allowed with kv_budget is none, layer or row, where a layer's cache is on one device");
    }
    if (model.arch == LLM_ARCH_GROK) {
        capkv_refuse_arch(model, "it runs without flash attention");
    }
}

// a draft's context takes its length from the main one, which is longer once its sequences have streams of their own: give it the
// length and the shared cells that it would have without a budget. It has no budget, so it always has an end
static void capkv_follow(const llama_model & model, llama_context_params & params) {
    const auto * other = params.ctx_other;
    const auto * cache = other ? capkv_memory::find(other->get_memory()) : nullptr;

    if (!cache || params.n_ctx != llama_n_ctx(other)) {
        return;
    }

    const auto & cparams = other->get_cparams();

    params.n_ctx = cparams.n_ctx; // where the main context has no end, its trained length for each sequence

    // GEMMA4_ASSISTANT reads the cells of the main context, so it keeps the same streams
    if (cache->get_length().was_unified && params.n_seq_max == llama_n_seq_max(other) && model.arch != LLM_ARCH_GEMMA4_ASSISTANT) {
        params.n_ctx      = cparams.n_ctx_seq;
        params.kv_unified = true;
    }
}

// where RoPE positions end: the trained length, or what the RoPE scaling that was asked for makes of it
static uint32_t capkv_n_pos_max(const llama_model & model, const llama_context_params & params) {
    const auto & hparams = model.hparams;

    const auto  type  = params.rope_scaling_type == LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED ? hparams.rope_scaling_type_train : params.rope_scaling_type;
    const float train = hparams.rope_freq_scale_train;

    float scale = params.rope_freq_scale == 0.0f ? train : params.rope_freq_scale;
    if (type == LLAMA_ROPE_SCALING_TYPE_NONE) {
        scale = 1.0f;
    }
    if (scale == train) {
        return hparams.n_ctx_train;
    }
    // as llama_init_from_model() sees it
    if (type == LLAMA_ROPE_SCALING_TYPE_YARN) {
        const uint32_t n_ctx_orig = params.yarn_orig_ctx > 0 ? params.yarn_orig_ctx : hparams.n_ctx_orig_yarn > 0 ? hparams.n_ctx_orig_yarn : hparams.n_ctx_train;
        return (uint32_t) (n_ctx_orig/scale);
    }
    return (uint32_t) (hparams.n_ctx_train*(train/scale));
}

//
// capkv_scope
//

capkv_scope::capkv_scope(const llama_model & model, llama_context_params & params) : model(model) {
    // speculative and MTP contexts share or mirror the main context, which alone has the budget
    if (params.ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT || params.ctx_other != nullptr || model.hparams.vocab_only) {
        capkv_follow(model, params);
        return;
    }

    try {
        if (!g_pending.asked) {
            g_pending.params = capkv_options_from_env();
        }
        g_pending.asked = false;
        capkv_params_check_or_throw(g_pending.params);
    } catch (const capkv_error & err) {
        capkv_throw(err.what());
    }

    if (!capkv_params_on(g_pending.params)) {
        return;
    }

    capkv_check_model(model);

    if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        capkv_throw("flash attention = off: allowed with kv_budget is on or auto");
    }
    auto & length = g_pending.length;

    length.n_pos_max    = std::min<uint32_t>(capkv_n_pos_max(model, params), INT32_MAX);
    length.was_unified  = params.kv_unified && params.n_seq_max > 1;
    length.past_trained = g_pending.params.reindex != CAPKV_REINDEX_NEVER;
    length.endless      = length.past_trained && params.n_ctx == 0;

    const uint32_t n_ctx = length.endless ? length.n_pos_max : params.n_ctx == 0 ? model.hparams.n_ctx_train : params.n_ctx;

    // each sequence gets a stream of its own; where they would have shared the cells, each may still be as long as the context.
    // Without an end, all that llama.cpp decides by the length is decided as for the trained length
    if (length.was_unified || length.endless) {
        const uint64_t n_all = (uint64_t) n_ctx*std::max(1u, params.n_seq_max);
        if (n_all > UINT32_MAX - 255) { // llama.cpp rounds it up to a multiple of 256
            capkv_throw("n_ctx = " + std::to_string(n_ctx) + ": allowed with kv_budget and " + std::to_string(params.n_seq_max) +
                    " sequences is at most " + std::to_string((UINT32_MAX - 255)/params.n_seq_max));
        }
        params.n_ctx = (uint32_t) n_all;
    }
    if (length.was_unified) {
        LLAMA_LOG_INFO("%s: kv_unified is off with a KV budget: each of the %u sequences is as long as the context\n",
                __func__, params.n_seq_max);
    }
    params.kv_unified = false;

    // layers with a sliding window keep no more than the window
    params.swa_full = false;

    g_pending.on       = true;
    g_pending.n_batch  = std::min(n_ctx, params.n_batch);
    g_pending.n_ubatch = params.n_ubatch == 0 ? g_pending.n_batch : std::min(g_pending.n_batch, params.n_ubatch);

    capkv_choose_cells(model, params, g_pending.params);
    g_pending.type_k = params.type_k;
}

capkv_scope::~capkv_scope() {
    if (g_pending.n_cells > 0) {
        capkv_set_last_error("kv_budget = " + std::to_string(g_pending.params.n_budget) + ": no memory for " + std::to_string(g_pending.n_cells) +
                " cells, " + std::to_string(g_pending.bytes_cells >> 20) + " MiB of K and V for each sequence");
        LLAMA_LOG_ERROR("%s: %s\n", __func__, capkv_last_error());
    }
    g_pending = {};
}

void capkv_scope::check(const llama_memory_i * mem) const {
    if (!g_pending.on) {
        return;
    }
    if (!capkv_memory::find(mem)) {
        capkv_refuse_arch(model, "its memory is of a kind that entries cannot be taken from");
    }
    if (!g_pending.params.untested && !capkv_arch_tested(model.arch_name())) {
        capkv_throw("kv_budget with the architecture '" + model.arch_name() +
                "': not tried yet; --kv-untested runs it (kv_untested=True in Python, --untested for capkv-chat)");
    }
}

void capkv_scope::check_graph(const llama_memory_i * mem, bool flash_attn) const {
    if (!g_pending.on) {
        return;
    }
    capkv_cache & cache = *capkv_memory::find(mem);

    for (const auto & l : cache.get_layers()) {
        if (!cache.get_observer().of(l).observed) {
            capkv_refuse_arch(model, "the queries of layer " + std::to_string(l.il) + " are not observed");
        }
    }
    const auto caches = capkv_memory::caches(mem);
    if (!cache.find_key_ropes(caches.size() > 1 ? caches[1] : nullptr) && g_pending.params.reindex != CAPKV_REINDEX_NEVER) {
        LLAMA_LOG_WARN("%s: the keys of the architecture '%s' cannot be rotated to other positions: past position %u, the end of those that it "
                "was trained on, the model breaks down%s\n", __func__, model.arch_name().c_str(), cache.get_length().n_pos_max,
                cache.get_length().endless ? ", and the context ends there" : "");
        cache.end_at_pos_max();
    }
    if (flash_attn) {
        return;
    }

    // llama.cpp decides by the device of each layer
    std::string where;
    for (const auto & l : cache.get_layers()) {
        auto * dev = model.dev_layer(l.il);

        const std::string cur = std::string(dev ? ggml_backend_dev_name(dev) : "none") + " (heads of " + std::to_string(l.d_k) +
            (l.d_v != l.d_k ? " and " + std::to_string(l.d_v) : "") + ")";
        if (where.find(cur) == std::string::npos) {
            where += (where.empty() ? "" : ", ") + cur;
        }
    }
    capkv_throw("flash attention = auto: it is off, since it cannot run where the layers are: " + where +
            "; allowed with kv_budget is on, or a device that has it");
}

//
// llama_kv_cache
//

// caches of sliding windows, and those that share the cells of another cache, stay as they are
static bool capkv_wants(llama_swa_type swa_type, const llama_memory_i * mem_other) {
    return g_pending.on && swa_type == LLAMA_SWA_TYPE_NONE && !mem_other;
}

uint32_t capkv_kv_size(
        const llama_hparams & hparams, ggml_type type_k, ggml_type type_v, uint32_t kv_size, llama_swa_type swa_type,
        const llama_memory_i * mem_other, const llama_memory_i::layer_filter_cb & filter) {
    if (!capkv_wants(swa_type, mem_other)) {
        return kv_size;
    }

    size_t bytes_per_tok = 0;
    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        if (hparams.has_kv(il) && (!filter || filter(il))) {
            bytes_per_tok += ggml_row_size(type_k, hparams.n_embd_k_gqa(il)) + ggml_row_size(type_v, hparams.n_embd_v_gqa(il));
        }
    }

    try {
        capkv_params_resolve(g_pending.params, kv_size, g_pending.n_batch, bytes_per_tok);
    } catch (const capkv_error & err) {
        capkv_throw(err.what());
    }

    auto & length = g_pending.length;

    length.n_ctx_seq = kv_size;

    // the kept entries and what is read after them have to fit in the trained length
    if ((uint64_t) g_pending.params.n_budget + g_pending.n_ubatch > length.n_pos_max) {
        if (length.endless) {
            LLAMA_LOG_WARN("%s: the budget of %u tokens and a batch of %u are more than the %u tokens of the trained length, where the context ends\n",
                    __func__, g_pending.params.n_budget, g_pending.n_ubatch, length.n_pos_max);
        }
        length.past_trained = false;
        length.endless      = false;
    }

    const uint64_t n_cells = (uint64_t) g_pending.params.n_budget + g_pending.params.n_headroom;

    g_pending.n_cells     = std::min<uint64_t>(kv_size, GGML_PAD(n_cells, (uint64_t) 256));
    g_pending.bytes_cells = g_pending.n_cells*bytes_per_tok;

    if (length.endless && g_pending.n_cells < g_pending.params.n_budget + (uint64_t) g_pending.n_batch) {
        LLAMA_LOG_WARN("%s: batches of more than %u tokens will find no room past the trained length of %u tokens\n",
                __func__, (uint32_t) g_pending.n_cells - g_pending.params.n_budget, kv_size);
    }

    return (uint32_t) g_pending.n_cells;
}

std::shared_ptr<capkv_cache> capkv_init(
        llama_kv_cache & kv, const llama_model & model, const llama_hparams & hparams, capkv_observer::buffers & bufs,
        llama_swa_type swa_type, const llama_memory_i * mem_other) {
    if (!capkv_wants(swa_type, mem_other)) {
        return nullptr;
    }

    capkv_name_cells(g_pending.params, g_pending.type_k);

    std::shared_ptr<capkv_cache> res;
    try {
        res = std::make_shared<capkv_cache>(kv, model, hparams, bufs, g_pending.params, g_pending.length);
    } catch (const capkv_error & err) {
        capkv_throw(err.what());
    }

    g_pending.n_cells = 0;

    return res;
}
