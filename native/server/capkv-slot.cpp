#include "capkv-slot.h"

#include <algorithm>
#include <cmath>

static double capkv_round(double x, double unit) {
    return std::round(x/unit)*unit;
}

// position of the token to come
static llama_pos capkv_pos_next(const llama_context * ctx, llama_seq_id id) {
    return llama_memory_seq_pos_max(llama_get_memory(ctx), id) + 1;
}

std::vector<int32_t> capkv_pin_ends(const llama_context * ctx, llama_seq_id id) {
    std::vector<int32_t> res(std::max(0, capkv_get_pins(ctx, id, nullptr, 0)));
    capkv_get_pins(ctx, id, res.data(), res.size());
    return res;
}

uint64_t capkv_count_pinned(const llama_context * ctx, llama_seq_id id) {
    const llama_pos pos_next = capkv_pos_next(ctx, id);
    const auto      ends     = capkv_pin_ends(ctx, id);

    uint64_t n = 0;
    for (size_t i = 0; i + 1 < ends.size(); i += 2) {
        n += std::max(0, std::min(ends[i + 1], pos_next) - ends[i]);
    }
    return n;
}

void capkv_slot::begin(const llama_context * ctx, llama_seq_id id, uint32_t n_budget, uint64_t n_reread) {
    capkv_params p;
    on = capkv_get_params(ctx, &p) && capkv_get_counts(ctx, id, &seen);

    this->n_budget = n_budget == 0 && on ? p.n_budget : n_budget;
    this->n_reread = n_reread;

    n_evictions = 0;
    t_evict_us  = 0;
}

void capkv_slot::count(const llama_context * ctx, llama_seq_id id, capkv_metrics & metrics) {
    capkv_stats st;
    if (!on || !capkv_get_counts(ctx, id, &st)) {
        return;
    }

    // a batch that failed may have emptied the sequence, and its counts with it
    if (st.n_evictions > seen.n_evictions) {
        n_evictions += st.n_evictions - seen.n_evictions;
        t_evict_us  += st.t_evict_us  - seen.t_evict_us;

        metrics.n_evictions += st.n_evictions - seen.n_evictions;
        metrics.t_evict_us  += st.t_evict_us  - seen.t_evict_us;
        metrics.n_evicted   += st.n_evicted   - seen.n_evicted;
    }
    seen = st;
    set_counts(ctx, id, st);
}

void capkv_slot::set_counts(const llama_context * ctx, llama_seq_id id, const capkv_stats & st) {
    const float capacity = now.capacity;

    now          = st;
    now.capacity = capacity;
    n_tail       = capkv_pos_next(ctx, id) - st.pos_tail;
}

void capkv_slot::refresh(const llama_context * ctx, llama_seq_id id) {
    capkv_params p;
    capkv_stats  st;

    on = capkv_get_params(ctx, &p) && capkv_get_stats(ctx, id, &st);
    if (on) {
        set_counts(ctx, id, st);
        now.capacity = st.capacity;
        n_budget     = n_budget == 0 ? p.n_budget : n_budget;
        n_pinned     = capkv_count_pinned(ctx, id);
    }
}

void capkv_slot::refresh_idle(const llama_context * ctx, llama_seq_id id) {
    capkv_stats st;
    if (capkv_get_counts(ctx, id, &st) && (!on || st.n_tokens != now.n_tokens || st.n_evictions != now.n_evictions)) {
        refresh(ctx, id);
    }
}

void capkv_slot::add_to(capkv_metrics & metrics) const {
    if (!on) {
        return;
    }
    metrics.n_slots  += 1;
    metrics.n_cells  += now.n_cells;
    metrics.n_used   += now.n_used;
    metrics.n_pinned += n_pinned;

    if (now.n_evictions > 0) {
        metrics.n_evicted_slots += 1;
        metrics.capacity        += now.capacity;
    }
}

uint32_t capkv_slot::n_cells_max(const llama_context * ctx) const {
    capkv_params p;
    if (!on || !capkv_get_params(ctx, &p) || n_budget >= p.n_budget) {
        return 0;
    }
    return n_budget + (seen.n_cells - p.n_budget);
}

common_json capkv_slot::to_json(llama_seq_id id, uint64_t n_evictions, int64_t t_evict_us) const {
    if (!on) {
        return nullptr;
    }
    common_json capacity = nullptr;
    if (now.n_evictions > 0) {
        capacity = capkv_round(now.capacity, 1e-4);
    }
    return {
        {"slot",      id},
        {"budget",    n_budget},
        {"held",      now.n_used},
        {"evicted",   now.n_evicted},
        {"tail",      n_tail},
        {"capacity",  capacity},
        {"pinned",    n_pinned},
        {"evictions", n_evictions},
        {"ms",        capkv_round(t_evict_us/1e3, 1e-3)},
        {"reread",    n_reread},
    };
}

common_json capkv_slot::to_json_request(llama_seq_id id) const {
    return to_json(id, n_evictions, t_evict_us);
}

common_json capkv_slot::to_json_slot(llama_seq_id id) const {
    return to_json(id, now.n_evictions, now.t_evict_us);
}
