// a question that is known before its text: read, its queries taken into the sample, and removed again

#include "capkv-cache.h"
#include "capkv-memory.h"

#include "llama-context.h"

#include <algorithm>

// what a removal from the end does not bring back of a sequence: states of recurrent layers, and the entries that left a sliding window
class capkv_checkpoint {
public:
    capkv_checkpoint(llama_context & lctx, llama_seq_id seq_id) : lctx(lctx), seq_id(seq_id) {
        if (dynamic_cast<llama_kv_cache *>(lctx.get_memory()) || lctx.get_memory()->seq_pos_max(seq_id) < 0) {
            return;
        }
        data.resize(lctx.state_seq_get_size(seq_id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
        if (lctx.state_seq_get_data(seq_id, data.data(), data.size(), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) != data.size()) {
            throw capkv_error("focus: the sliding windows or recurrent layers of the sequence cannot be saved, the cache is as it was");
        }
    }

    bool restore() {
        return data.empty() || lctx.state_seq_set_data(seq_id, data.data(), data.size(), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == data.size();
    }

private:
    llama_context      & lctx;
    const llama_seq_id   seq_id;
    std::vector<uint8_t> data;
};

// returns what llama_decode() does
static int32_t capkv_decode(llama_context & lctx, llama_seq_id seq_id, const std::vector<llama_token> & tokens) {
    const size_t n_batch = lctx.n_batch();

    llama_batch batch = llama_batch_init(std::min(n_batch, tokens.size()), 0, 1);
    llama_pos   pos   = lctx.get_memory()->seq_pos_max(seq_id) + 1;

    int32_t res = 0;
    for (size_t i = 0; i < tokens.size() && res == 0; i += n_batch) {
        batch.n_tokens = std::min(n_batch, tokens.size() - i);
        for (int32_t j = 0; j < batch.n_tokens; ++j) {
            batch.token   [j]    = tokens[i + j];
            batch.pos     [j]    = pos++;
            batch.n_seq_id[j]    = 1;
            batch.seq_id  [j][0] = seq_id;
            batch.logits  [j]    = 0;
        }
        res = llama_decode(&lctx, batch);
    }
    llama_batch_free(batch);

    return res;
}

// the tokens that are decoded meanwhile are a question's
struct capkv_focus_scope {
    capkv_observer & observer;

    capkv_focus_scope(capkv_observer & observer, uint32_t s) : observer(observer) { observer.begin_focus(s); }
    ~capkv_focus_scope() { observer.end_focus(); }
};

// the names of the policies that a question can be given to
static std::string capkv_policies_with_sample() {
    std::string res;
    for (size_t i = 0; i < capkv_n_policies(); ++i) {
        const auto * policy = capkv_policy_find(capkv_get_policy(i)->name);
        if (policy->observe.n_res > 0) {
            res += (res.empty() ? "" : ", ") + std::string(policy->name);
        }
    }
    return res;
}

void capkv_cache::check_focus_room(llama_seq_id seq_id, int64_t n) const {
    const auto & cells = kv.get_cells(seq_id);

    const int64_t n_free = (int64_t) cells.size() - cells.get_used();
    const int64_t n_pos  = (int64_t) length.n_pos_max + pos_offset(seq_id) - (cells.seq_pos_max(seq_id) + 1);

    if (n > n_free) {
        throw capkv_error("focus: " + std::to_string(n) + " tokens, and " + std::to_string(n_free) + " of " + std::to_string(cells.size()) +
                " cells are free: allowed is what fits without an eviction (one on demand makes room)");
    }
    if (params.reindex != CAPKV_REINDEX_NEVER && n > n_pos) {
        throw capkv_error("focus: " + std::to_string(n) + " tokens, and " + std::to_string(std::max<int64_t>(n_pos, 0)) +
                " RoPE positions are left up to the trained length: allowed is what fits without an eviction");
    }
}

int64_t capkv_cache::read_focus(llama_context * lctx, llama_seq_id seq_id, const std::vector<llama_token> & tokens) {
    if (observer.n_focus_max() == 0) {
        throw capkv_error("focus: kv_policy = " + std::string(params.policy) + " keeps no sample of queries: allowed is " + capkv_policies_with_sample());
    }
    check_focus_room(seq_id, tokens.size());

    const auto * vocab = llama_model_get_vocab(&lctx->get_model());
    for (const llama_token token : tokens) {
        if (token < 0 || token >= llama_vocab_n_tokens(vocab)) {
            throw capkv_error("focus: token = " + std::to_string(token) + ": allowed is 0 to " + std::to_string(llama_vocab_n_tokens(vocab) - 1));
        }
    }

    auto * mem = lctx->get_memory();

    const uint32_t  s    = kv.get_stream(seq_id);
    const llama_pos pos0 = mem->seq_pos_max(seq_id) + 1;
    const auto      pin  = pins.get(s); // those of positions that are ahead would end with the question

    capkv_checkpoint before(*lctx, seq_id);

    const int32_t status = [&] {
        const capkv_focus_scope scope(observer, s);
        return capkv_decode(*lctx, seq_id, tokens);
    }();

    const bool is_back = before.restore() && mem->seq_rm(seq_id, pos0, -1);
    pins.set(s, capkv_pins::stream(pin));

    if (!is_back) {
        mem->seq_rm(seq_id, -1, -1);
    }
    if (status != 0 || !is_back) {
        observer.drop_focus(s);
        throw capkv_error("focus: " + (status != 0 ? "llama_decode() returned " + std::to_string(status) : "it could not be removed again") +
                (is_back ? ", the text is as it was, and no question is held" : ": the sequence is empty now"));
    }
    return observer.n_focus(s);
}
