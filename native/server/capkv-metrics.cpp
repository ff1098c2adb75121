#include "capkv-metrics.h"

void capkv_metrics::reset_gauges() {
    n_slots         = 0;
    n_cells         = 0;
    n_used          = 0;
    n_pinned        = 0;
    capacity        = 0.0;
    n_evicted_slots = 0;
}

void capkv_metrics::write(std::ostream & out) const {
    if (n_slots == 0) {
        return;
    }

    const auto add = [&out](const char * type, const char * name, const char * help, auto value) {
        out << "# HELP llamacpp:" << name << " " << help  << "\n"
            << "# TYPE llamacpp:" << name << " " << type  << "\n"
            << "llamacpp:"        << name << " " << value << "\n";
    };

    add("counter", "kv_evictions_total",        "Times that a slot was evicted down to its budget",           n_evictions);
    add("counter", "kv_evicted_tokens_total",   "Tokens that each KV head has dropped, summed over slots",    n_evicted);
    add("counter", "kv_eviction_seconds_total", "Time spent evicting",                                        t_evict_us/1e6);
    add("counter", "kv_reread_tokens_total",    "Prompt tokens that a slot had read before and read again",   n_reread);

    add("gauge", "kv_budget_tokens",     "Tokens kept per KV head when a slot is evicted", n_budget);
    add("gauge", "kv_cells",             "Cells of all slots",                             n_cells);
    add("gauge", "kv_cache_tokens",      "Cells in use",                                   n_used);
    add("gauge", "kv_cache_usage_ratio", "Cells in use, of all: 1 is full",                (double) n_used/n_cells);
    add("gauge", "kv_pinned_tokens",     "Tokens that are pinned: no KV head drops them", n_pinned);

    if (n_evicted_slots > 0) {
        add("gauge", "kv_capacity_retained_ratio", "Share of the capacity that the last eviction retained, mean over slots",
                capacity/n_evicted_slots);
    }
}
