// the C API on contexts

#include "capkv-cache.h"
#include "capkv-memory.h"

#include "llama-context.h"

#include <algorithm>
#include <cstdio>
#include <map>

static const capkv_cache * capkv_of(const llama_context * ctx) {
    return ctx ? capkv_memory::find(ctx->get_memory()) : nullptr;
}

static const capkv_cache & capkv_of_or_throw(const llama_context * ctx, int32_t seq_id) {
    const auto * cache = capkv_of(ctx);

    if (!cache) {
        throw capkv_error("the context has no KV budget");
    }
    if (seq_id < 0 || seq_id >= (int32_t) cache->n_stream()) {
        throw capkv_error("seq_id = " + std::to_string(seq_id) + ": allowed is 0 to " + std::to_string(cache->n_stream() - 1));
    }
    return *cache;
}

bool capkv_get_params(const llama_context * ctx, capkv_params * params) {
    const auto * cache = capkv_of(ctx);
    if (cache && params) {
        *params = cache->get_params();
    }
    return cache != nullptr;
}

bool capkv_is_endless(const llama_context * ctx) {
    const auto * cache = capkv_of(ctx);

    return cache && cache->get_length().endless;
}

bool capkv_can_pass_trained(const llama_context * ctx) {
    const auto * cache = capkv_of(ctx);

    return cache && cache->get_length().past_trained;
}

static bool capkv_stats_of(const llama_context * ctx, int32_t seq_id, capkv_stats * stats, bool with_capacity) {
    return capkv_guard(false, [&] {
        if (!stats) {
            throw capkv_error("stats: NULL is not allowed");
        }
        const auto & cache = capkv_of_or_throw(ctx, std::max(seq_id, 0));

        *stats = {};

        capkv_capacity cap; // of all layers and sequences

        for (int32_t s = 0; s < (int32_t) cache.n_stream(); ++s) {
            if (seq_id < 0 || s == seq_id) {
                cache.add_stats(s, *stats);
                if (!with_capacity) {
                    continue;
                }
                for (const auto & c : cache.capacities(s)) {
                    cap.kept += c.kept;
                    cap.all  += c.all;
                }
            }
        }
        if (with_capacity) {
            stats->capacity = cap.share();
        }
        return true;
    });
}

bool capkv_get_stats(const llama_context * ctx, int32_t seq_id, capkv_stats * stats) {
    return capkv_stats_of(ctx, seq_id, stats, /*with_capacity =*/ true);
}

bool capkv_get_counts(const llama_context * ctx, int32_t seq_id, capkv_stats * stats) {
    return capkv_stats_of(ctx, seq_id, stats, /*with_capacity =*/ false);
}

// what an eviction on demand goes down to; throws if it is refused
static uint32_t capkv_compress_target(const capkv_cache & cache, int32_t seq_id, uint32_t n_budget) {
    const auto & params = cache.get_params();

    const uint32_t n_target = n_budget == 0 ? params.n_budget : n_budget;
    const uint64_t n_min    = (uint64_t) params.n_sink + params.n_recent + 1;

    if (n_target < n_min) {
        throw capkv_error("compress: budget = " + std::to_string(n_target) + ": allowed is 0 (the context's own) or at least kv_sink + kv_recent + 1 = " +
                std::to_string(n_min));
    }

    cache.check_room(seq_id, n_target);

    return n_target;
}

bool capkv_can_compress(const llama_context * ctx, int32_t seq_id, uint32_t n_budget) {
    return capkv_guard(false, [&] {
        capkv_compress_target(capkv_of_or_throw(ctx, seq_id), seq_id, n_budget);
        return true;
    });
}

// the device whose memory the buffers of a type are in; NULL = the processor
static ggml_backend_dev_t capkv_device_of(ggml_backend_buffer_type_t buft) {
    ggml_backend_dev_t dev = ggml_backend_buft_is_host(buft) ? nullptr : ggml_backend_buft_get_device(buft);

    const bool own = dev && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_ACCEL;
    return own ? dev : nullptr;
}

int32_t capkv_get_device_memory(llama_context * ctx, capkv_device_memory * devices, int32_t n_max) {
    return capkv_guard(-1, [&] {
        if (!ctx) {
            throw capkv_error("capkv_get_device_memory: NULL is not allowed");
        }

        llama_memory_breakdown sizes = ctx->memory_breakdown();
        if (const auto * cache = capkv_of(ctx)) {
            auto & evictor = const_cast<capkv_cache *>(cache)->get_evictor();
            evictor.prepare(ctx, /*optimize =*/ false);
            for (const auto & [buft, size] : evictor.memory_breakdown()) {
                sizes[buft].compute += size;
            }
        }

        std::map<ggml_backend_dev_t, capkv_device_memory> res; // NULL, the processor, comes first
        for (const auto & [buft, size] : sizes) {
            auto & d = res[capkv_device_of(buft)];

            d.bytes_model  += size.model;
            d.bytes_mapped += buft == ggml_backend_cpu_buffer_type() ? size.model : 0;
            d.bytes_cache  += size.context;
            d.bytes_work   += size.compute;
        }

        int32_t n = 0;
        for (auto & [own, d] : res) {
            ggml_backend_dev_t dev = own ? own : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);

            size_t free  = 0;
            size_t total = 0;
            if (dev) {
                ggml_backend_dev_memory(dev, &free, &total);
            }
            d.host  = !own;
            d.free  = free;
            d.total = total;
            snprintf(d.name, sizeof(d.name), "%s", own ? ggml_backend_dev_name(own) : "CPU");

            if (devices && n < n_max) {
                devices[n] = d;
            }
            n++;
        }
        return n;
    });
}

int32_t capkv_compress(llama_context * ctx, int32_t seq_id, uint32_t n_budget) {
    return capkv_guard(-1, [&]() -> int32_t {
        auto & cache = const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id));

        const uint32_t n_target = capkv_compress_target(cache, seq_id, n_budget);

        const uint32_t n_used = cache.n_used(seq_id);
        if (n_used <= n_target) {
            return 0;
        }

        ctx->synchronize(); // ends a batch that is still computed, and its time

        cache.request(seq_id, n_target);
        ctx->memory_update(true);

        if (cache.take_status() != GGML_STATUS_SUCCESS) {
            throw capkv_error(cache.n_used(seq_id) == 0 ?
                    "compress: the eviction failed while cells moved, the sequence is empty now" :
                    "compress: the eviction failed, the cache is as it was");
        }
        return (int32_t) (n_used - n_target);
    });
}

int32_t capkv_get_scores(llama_context * ctx, int32_t seq_id, float * scores, int32_t n_max) {
    return capkv_guard(-1, [&]() -> int32_t {
        auto & cache = const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id));

        int64_t n = 0;
        for (const auto & l : cache.get_layers()) {
            n += l.n_head_kv*(int64_t) cache.n_used(seq_id);
        }
        if (n > INT32_MAX) {
            throw capkv_error("scores: there are " + std::to_string(n) + " of them, at most " + std::to_string(INT32_MAX) + " can be read");
        }
        if (scores) {
            ctx->synchronize();
            ctx->memory_update(false); // copies of sequences that wait for the next batch

            const auto res = cache.scores(ctx, seq_id);
            std::copy_n(res.begin(), std::min<size_t>(res.size(), std::max(n_max, 0)), scores);
        }
        return (int32_t) n;
    });
}

bool capkv_pin(llama_context * ctx, int32_t seq_id, int32_t p0, int32_t p1) {
    return capkv_guard(false, [&] {
        const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id)).pin(seq_id, p0, p1);
        return true;
    });
}

bool capkv_unpin(llama_context * ctx, int32_t seq_id, int32_t p0, int32_t p1) {
    return capkv_guard(false, [&] {
        const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id)).unpin(seq_id, p0, p1);
        return true;
    });
}

int32_t capkv_get_pins(const llama_context * ctx, int32_t seq_id, int32_t * ends, int32_t n_max) {
    return capkv_guard(-1, [&] {
        std::vector<int32_t> res;
        for (const auto & r : capkv_of_or_throw(ctx, seq_id).get_pins(seq_id)) {
            res.push_back(r.p0);
            res.push_back(r.p1);
        }
        if (ends) {
            std::copy_n(res.begin(), std::min<size_t>(res.size(), std::max(n_max, 0)), ends);
        }
        return (int32_t) res.size();
    });
}

int32_t capkv_focus(llama_context * ctx, int32_t seq_id, const int32_t * tokens, int32_t n_tokens) {
    return capkv_guard(-1, [&]() -> int32_t {
        auto & cache = const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id));

        if (!tokens || n_tokens < 1) {
            throw capkv_error("focus: " + (tokens ? std::to_string(n_tokens) + " tokens: allowed is 1 or more" : "tokens: NULL is not allowed"));
        }
        return (int32_t) cache.read_focus(ctx, seq_id, std::vector<llama_token>(tokens, tokens + n_tokens));
    });
}

bool capkv_unfocus(llama_context * ctx, int32_t seq_id) {
    return capkv_guard(false, [&] {
        const_cast<capkv_cache &>(capkv_of_or_throw(ctx, seq_id)).drop_focus(seq_id);
        return true;
    });
}

int32_t capkv_n_focus(const llama_context * ctx, int32_t seq_id) {
    return capkv_guard(-1, [&] { return (int32_t) capkv_of_or_throw(ctx, seq_id).n_focus(seq_id); });
}

int32_t capkv_n_focus_max(const llama_context * ctx) {
    const auto * cache = capkv_of(ctx);

    return cache ? (int32_t) cache->get_observer().n_focus_max() : 0;
}

int32_t capkv_get_layers(const llama_context * ctx, int32_t * layers, int32_t n_max) {
    const auto * cache = capkv_of(ctx);
    if (!cache) {
        return 0;
    }

    const int32_t n = (int32_t) cache->get_layers().size();
    for (int32_t i = 0; layers && i < std::min(n, n_max); ++i) {
        layers[i] = cache->get_layers()[i].il;
    }
    return n;
}

int32_t capkv_get_capacity(const llama_context * ctx, int32_t seq_id, float * share, int32_t n_max) {
    return capkv_guard(-1, [&] {
        const auto & cap = capkv_of_or_throw(ctx, seq_id).capacities(seq_id);

        for (int32_t i = 0; share && i < std::min<int32_t>(cap.size(), n_max); ++i) {
            share[i] = cap[i].share();
        }
        return (int32_t) cap.size();
    });
}

int32_t capkv_n_head_kv(const llama_context * ctx, int32_t il) {
    const auto * cache = capkv_of(ctx);
    const auto * l     = cache ? capkv_find_layer(cache->get_layers(), il) : nullptr;

    return l ? (int32_t) l->n_head_kv : 0;
}

static int32_t capkv_get_head(const llama_context * ctx, int32_t seq_id, int32_t il, int32_t head_kv, bool rope, int32_t * pos, int32_t n_max) {
    return capkv_guard(-1, [&] {
        const auto & cache = capkv_of_or_throw(ctx, seq_id);
        const auto * l     = capkv_find_layer(cache.get_layers(), il);

        if (!l) {
            throw capkv_error("layer = " + std::to_string(il) + ": allowed is one of the " + std::to_string(cache.get_layers().size()) +
                    " layers that the budget governs");
        }
        if (head_kv < 0 || head_kv >= l->n_head_kv) {
            throw capkv_error("head = " + std::to_string(head_kv) + ": allowed is 0 to " + std::to_string(l->n_head_kv - 1));
        }

        const auto res = cache.head_positions(seq_id, *l, head_kv, rope);
        if (pos) {
            std::copy_n(res.begin(), std::min<size_t>(res.size(), std::max(n_max, 0)), pos);
        }

        return (int32_t) res.size();
    });
}

int32_t capkv_get_positions(const llama_context * ctx, int32_t seq_id, int32_t il, int32_t head_kv, int32_t * pos, int32_t n_max) {
    return capkv_get_head(ctx, seq_id, il, head_kv, /*rope =*/ false, pos, n_max);
}

int32_t capkv_get_rope_positions(const llama_context * ctx, int32_t seq_id, int32_t il, int32_t head_kv, int32_t * pos, int32_t n_max) {
    return capkv_get_head(ctx, seq_id, il, head_kv, /*rope =*/ true, pos, n_max);
}
