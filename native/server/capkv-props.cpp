#include "capkv-props.h"

#include <mutex>
#include <stdexcept>
#include <string>

struct capkv_known {
    std::mutex   mutex;
    bool         on      = false;
    bool         endless = false;
    capkv_params params  = {};
    capkv_stats  stats   = {}; // of one slot
    int32_t      n_keep  = 0;
};

static capkv_known & capkv_known_get() {
    static capkv_known known;
    return known;
}

void capkv_set_props(const llama_context * ctx, int32_t n_keep) {
    auto & known = capkv_known_get();

    std::lock_guard<std::mutex> lock(known.mutex);

    known.on      = capkv_get_params(ctx, &known.params) && capkv_get_counts(ctx, 0, &known.stats);
    known.endless = capkv_is_endless(ctx);
    known.n_keep  = n_keep;
}

common_json capkv_props() {
    auto & known = capkv_known_get();

    std::lock_guard<std::mutex> lock(known.mutex);
    if (!known.on) {
        return nullptr;
    }

    char type[16];
    capkv_params_get(&known.params, "type", type, sizeof(type));

    return {
        {"budget",   known.params.n_budget},
        {"policy",   known.params.policy},
        {"sink",     known.params.n_sink},
        {"recent",   known.params.n_recent},
        {"headroom", known.stats.n_cells - known.params.n_budget},
        {"cells",    known.stats.n_cells},
        {"type",     type},
        {"endless",  known.endless},
        {"bytes",    known.stats.bytes_kv},
    };
}

uint32_t capkv_request_budget(const common_json & value) {
    auto & known = capkv_known_get();

    std::lock_guard<std::mutex> lock(known.mutex);

    const std::string said = "kv_budget = " + value.dump() + ": ";
    if (!known.on) {
        throw std::invalid_argument(said + "the server has no budget; --kv-budget gives it one");
    }

    const int64_t n_min = (int64_t) known.params.n_sink + known.params.n_recent + 1;
    const int64_t n_max = known.params.n_budget;

    if (!value.is_number_integer() || value.get<int64_t>() < n_min || value.get<int64_t>() > n_max) {
        throw std::invalid_argument(said + "allowed is a whole number from sinks + recent tokens + 1 = " + std::to_string(n_min) +
                " to the server's budget, " + std::to_string(n_max));
    }
    return value.get<int64_t>();
}

bool capkv_keeps_system(const common_json & n_keep) {
    auto & known = capkv_known_get();

    std::lock_guard<std::mutex> lock(known.mutex);

    return known.on && (n_keep.is_number_integer() ? n_keep.get<int64_t>() : known.n_keep) == -1;
}
