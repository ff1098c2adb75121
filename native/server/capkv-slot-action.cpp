#include "capkv-slot-action.h"

#include "capkv-slot.h"
#include "server-common.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

int capkv_parse_slot(const std::string & text) {
    if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) {
        throw std::invalid_argument("slot = " + text + ": allowed is the number of a slot");
    }
    return std::stoi(text);
}

static int32_t capkv_parse_position(const json & body, const char * name) {
    if (!body.contains(name)) {
        throw std::invalid_argument(std::string(name) + " is missing: allowed is {\"start\": position, \"stop\": position}");
    }
    const auto & value = body.at(name);
    if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > INT32_MAX) {
        throw std::invalid_argument(std::string(name) + " = " + value.dump() + ": allowed is a position, 0 to 2147483647");
    }
    return value.get<int64_t>();
}

capkv_slot_action capkv_parse_pin(const std::string & action, const std::string & body) {
    const json parsed = json::parse_no_throw(body);
    if (parsed.is_discarded() || !parsed.is_object()) {
        throw std::invalid_argument("the request has no JSON object: allowed is {\"start\": position, \"stop\": position}");
    }

    capkv_slot_action res;
    res.what  = action == "pin" ? capkv_slot_action::PIN : capkv_slot_action::UNPIN;
    res.start = capkv_parse_position(parsed, "start");
    res.stop  = capkv_parse_position(parsed, "stop");

    if (res.stop <= res.start) {
        throw std::invalid_argument("stop = " + std::to_string(res.stop) + ": allowed is more than start = " + std::to_string(res.start));
    }
    return res;
}

std::vector<std::string> capkv_whole_characters(const std::vector<std::string> & pieces) {
    std::vector<std::string> res(pieces.size());

    std::string waiting; // the beginning of a character
    for (size_t i = 0; i < pieces.size(); ++i) {
        waiting += pieces[i];

        const size_t n = i + 1 == pieces.size() ? waiting.size() : validate_utf8(waiting);
        res[i] = waiting.substr(0, n);
        waiting.erase(0, n);
    }
    return res;
}

// for each position below n, the share of KV heads of the governed layers that hold it
//   n_heads: becomes their number
static std::vector<float> capkv_shares(const llama_context * ctx, llama_seq_id id, llama_pos n, int64_t & n_heads) {
    std::vector<int32_t> layers(capkv_get_layers(ctx, nullptr, 0));
    capkv_get_layers(ctx, layers.data(), layers.size());

    std::vector<uint32_t> count(n, 0);
    std::vector<int32_t>  held;

    n_heads = 0;
    for (const int32_t il : layers) {
        for (int32_t head = 0; head < capkv_n_head_kv(ctx, il); ++head) {
            held.resize(std::max(0, capkv_get_positions(ctx, id, il, head, nullptr, 0)));
            capkv_get_positions(ctx, id, il, head, held.data(), held.size());
            for (const int32_t pos : held) {
                if (pos >= 0 && pos < n) {
                    count[pos]++;
                }
            }
            n_heads++;
        }
    }

    std::vector<float> res(n);
    for (llama_pos pos = 0; pos < n; ++pos) {
        res[pos] = (float) count[pos]/n_heads;
    }
    return res;
}

static json capkv_pins_json(const llama_context * ctx, llama_seq_id id) {
    const auto ends = capkv_pin_ends(ctx, id);

    json res = json::array();
    for (size_t i = 0; i + 1 < ends.size(); i += 2) {
        res.push_back(json::array({ends[i], ends[i + 1]}));
    }
    return res;
}

json capkv_run_slot_action(
        llama_context * ctx, llama_seq_id id, const capkv_slot_action & action,
        const std::vector<std::string> & pieces, const std::vector<llama_pos> & pos) {
    if (!capkv_get_params(ctx, nullptr)) {
        throw std::invalid_argument("the server has no budget; --kv-budget gives it one");
    }

    if (action.what == capkv_slot_action::KEPT) {
        int64_t n_heads = 0;
        const auto of_pos = capkv_shares(ctx, id, pos.empty() ? 0 : pos.back() + 1, n_heads);

        json share = json::array();
        for (const llama_pos p : pos) {
            share.push_back(std::round(of_pos[p]*1e4)/1e4);
        }
        return {
            {"id",      id},
            {"n_past",  pos.size()},
            {"n_heads", n_heads},
            {"share",   share},
            {"text",    capkv_whole_characters(pieces)},
            {"pins",    capkv_pins_json(ctx, id)},
        };
    }

    if (action.what == capkv_slot_action::PIN && (pos.empty() || action.stop > pos.back() + 1)) {
        throw std::invalid_argument("stop = " + std::to_string(action.stop) + ": allowed is at most the length of the slot's text, " +
                std::to_string(pos.empty() ? 0 : pos.back() + 1));
    }

    const bool ok = action.what == capkv_slot_action::PIN ?
        capkv_pin  (ctx, id, action.start, action.stop) :
        capkv_unpin(ctx, id, action.start, action.stop);

    if (!ok) {
        throw std::invalid_argument(capkv_last_error());
    }
    return {
        {"id_slot", id},
        {"pins",    capkv_pins_json(ctx, id)},
        {"pinned",  capkv_count_pinned(ctx, id)},
    };
}
