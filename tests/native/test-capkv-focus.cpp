// a question that is known before its text: its queries stay in the sample, and the text is as if it had never been read

#include "tiny-archs.h"

#include "capkv-cache.h"
#include "capkv-memory.h"

#include <algorithm>
#include <set>

// policy capkv: a sample of 90
static constexpr int64_t N_RES = 90;
static constexpr int32_t N_MAX = 30;

static const auto g_question = tiny_text(20, 77);

static capkv_cache & cache_of(const llama_context_ptr & ctx) {
    return *capkv_memory::find(llama_get_memory(ctx.get()));
}

static int32_t focus(const llama_context_ptr & ctx, const std::vector<llama_token> & tokens, int32_t seq_id = 0) {
    return capkv_focus(ctx.get(), seq_id, tokens.data(), tokens.size());
}

static bool read(const llama_context_ptr & ctx, size_t n, uint32_t seed = 0, int32_t seq_id = 0) {
    return tiny_read(ctx.get(), tiny_text(n, seed), seq_id) == 0;
}

static bool is_refused(int32_t res, const char * words) {
    if (res >= 0 || !strstr(capkv_last_error(), words)) {
        fprintf(stderr, "%d, %s\n", res, capkv_last_error());
        return false;
    }
    return true;
}

static std::vector<float> logits(const llama_context_ptr & ctx, int32_t seq_id = 0) {
    CHECK(tiny_read(ctx.get(), { 9 }, seq_id) == 0);
    const float * data = llama_get_logits_ith(ctx.get(), -1);
    return { data, data + TINY_N_VOCAB };
}

static std::vector<std::vector<llama_pos>> held(const llama_context_ptr & ctx, int32_t seq_id = 0) {
    std::vector<std::vector<llama_pos>> res;
    for (const auto & l : cache_of(ctx).get_layers()) {
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            res.push_back(cache_of(ctx).head_positions(seq_id, l, h));
        }
    }
    return res;
}

// positions of the rows that hold the question's queries or the text's
static std::set<llama_pos> positions(const llama_context_ptr & ctx, bool of_question, int32_t seq_id = 0) {
    std::set<llama_pos> res;
    for (const auto & row : cache_of(ctx).get_observer().get(seq_id).rows) {
        if (row.pos >= 0 && row.is_focus() == of_question) {
            CHECK(res.insert(row.pos).second);
        }
    }
    return res;
}

// the bytes of the rows with the question's queries, by position: of all layers
static std::map<llama_pos, std::vector<uint8_t>> queries(const llama_context_ptr & ctx, int32_t seq_id = 0) {
    llama_synchronize(ctx.get());

    const auto & observer = cache_of(ctx).get_observer();
    const auto & rows     = observer.get(seq_id).rows;

    std::map<llama_pos, std::vector<uint8_t>> res;
    for (size_t j = 0; j < rows.size(); ++j) {
        if (!rows[j].is_focus()) {
            continue;
        }
        auto & out = res[rows[j].pos];
        for (const auto & t : observer.get_tensors()) {
            const size_t n = out.size();
            out.resize(n + t.t->nb[1]);
            ggml_backend_tensor_get(t.t, out.data() + n, t.offset(seq_id) + j*t.t->nb[1], t.t->nb[1]);
        }
    }
    return res;
}

static std::set<llama_pos> range(llama_pos p0, llama_pos p1) {
    std::set<llama_pos> res;
    for (; p0 < p1; ++p0) {
        res.insert(p0);
    }
    return res;
}

// the n of lowest keys: a uniform sample of the text
static std::set<llama_pos> lowest(const llama_context_ptr & ctx, llama_pos p0, llama_pos p1, size_t n) {
    std::vector<llama_pos> pos;
    for (; p0 < p1; ++p0) {
        pos.push_back(p0);
    }
    const auto & observer = cache_of(ctx).get_observer();
    std::sort(pos.begin(), pos.end(), [&](llama_pos a, llama_pos b) { return observer.key_of(a) < observer.key_of(b); });
    return { pos.begin(), pos.begin() + n };
}

// which rows a question takes, and what is left of the sample of the text
static void test_rows(llama_model * model) {
    auto ctx = tiny_context(model, "64");

    CHECK(capkv_n_focus(ctx.get(), 0) == 0 && capkv_n_focus_max(ctx.get()) == N_MAX);
    CHECK(focus(ctx, g_question) == 20 && capkv_n_focus(ctx.get(), 0) == 20);
    CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx.get()), 0) == -1);
    CHECK(positions(ctx, true) == range(0, 20) && positions(ctx, false).empty()); // also before n_sink

    const auto before = queries(ctx);
    CHECK(before.size() == 20 && before.at(3) != before.at(4));

    CHECK(read(ctx, 60)); // at the same positions
    CHECK(positions(ctx, true) == range(0, 20) && positions(ctx, false) == range(4, 60));

    CHECK(read(ctx, 400, 1));
    CHECK(tiny_stats(ctx.get()).n_evictions >= 1);
    CHECK(positions(ctx, false) == lowest(ctx, 4, 460, N_RES - 20));
    CHECK(queries(ctx) == before);

    // a longer question in place of it: its newest tokens, and a third of the sample
    CHECK(capkv_compress(ctx.get(), 0, 0) > 0);
    CHECK(focus(ctx, tiny_text(50, 3)) == N_MAX);
    CHECK(positions(ctx, true) == range(480, 510) && positions(ctx, false).size() == N_RES - N_MAX);

    CHECK(capkv_unfocus(ctx.get(), 0) && capkv_n_focus(ctx.get(), 0) == 0 && capkv_unfocus(ctx.get(), 0));
    CHECK(positions(ctx, false).size() == N_RES - N_MAX);
    CHECK(read(ctx, 40, 2) && positions(ctx, false).size() == N_RES);

}

// what a removal leaves, and what ends it
static void test_removals(llama_model * model) {
    auto ctx = tiny_context(model, "64", "capkv", 2);
    auto * mem = llama_get_memory(ctx.get());

    CHECK(focus(ctx, g_question) == 20);
    const auto before = queries(ctx);

    CHECK(read(ctx, 40));
    CHECK(llama_memory_seq_rm(mem, 0, 10, -1) && positions(ctx, false) == range(4, 10));
    CHECK(llama_memory_seq_rm(mem, 0, -1, -1) && positions(ctx, false).empty());
    CHECK(queries(ctx) == before);

    CHECK(read(ctx, 300) && llama_memory_seq_rm(mem, -1, -1, -1));
    CHECK(queries(ctx) == before && tiny_stats(ctx.get()).n_tokens == 0);

    // an other sequence has one of its own
    CHECK(read(ctx, 40, 1, 1) && focus(ctx, tiny_text(5, 8), 1) == 5 && positions(ctx, true, 1) == range(40, 45));
    CHECK(queries(ctx) == before);

    llama_memory_clear(mem, false);
    CHECK(capkv_n_focus(ctx.get(), 0) == 0 && capkv_n_focus(ctx.get(), 1) == 0);
}

// the text is read as if there had been no question, bit for bit: at once, and behind a text with pins, the ones ahead of it too. Once it is
// dropped, evictions are the same as well; before, they are others
static void test_text(llama_model * model, const char * name, const char * policy) {
    fprintf(stderr, "%s, %s\n", name, policy);

    for (const size_t n_before : { 0, 45, 300 }) {
        std::vector<std::vector<std::vector<llama_pos>>> chosen;
        for (const int way : { 0, 1, 2 }) { // no question; one that is dropped at once; one that stays
            auto ctx = tiny_context(model, "64", policy);

            CHECK(capkv_pin(ctx.get(), 0, n_before, n_before + 6));
            CHECK(read(ctx, n_before, 4));
            const auto stats = tiny_stats(ctx.get());
            CHECK(way == 0 || focus(ctx, g_question) == std::min<int64_t>(20, cache_of(ctx).get_observer().n_focus_max()));
            if (way == 1) {
                CHECK(capkv_unfocus(ctx.get(), 0));
            }
            CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx.get()), 0) == (llama_pos) n_before - 1);
            CHECK(tiny_stats(ctx.get()).n_evictions == stats.n_evictions && tiny_stats(ctx.get()).pos_tail == stats.pos_tail);

            int32_t ends[2];
            CHECK(capkv_get_pins(ctx.get(), 0, ends, 2) == 2 && ends[0] == (int32_t) n_before && ends[1] == (int32_t) n_before + 6);

            static std::vector<float> expected;
            const auto found = logits(ctx);
            CHECK(way == 0 || found == expected);
            expected = found;

            CHECK(read(ctx, 150, 5) && capkv_compress(ctx.get(), 0, 0) > 0);
            chosen.push_back(held(ctx));
        }
        if (n_before == 0) { // else the rows that the question took of the sample before are not those that it leaves free
            CHECK(chosen[1] == chosen[0]);
        }
        CHECK(chosen[2] != chosen[0]);
    }
}

// a question that overwrites entries of a sliding window: they are there again
static void test_window(llama_model * model) {
    std::vector<std::vector<float>> found;
    for (const bool with_question : { false, true }) {
        auto ctx = tiny_context(model, "24");
        CHECK(read(ctx, 300) && capkv_compress(ctx.get(), 0, 0) > 0);
        CHECK(!with_question || focus(ctx, tiny_text(230, 6)) > 0);
        found.push_back(logits(ctx));
    }
    CHECK(found[0] == found[1]);
}

static void test_copies(llama_model * model) {
    auto ctx = tiny_context(model, "64", "capkv", 2);
    auto * mem = llama_get_memory(ctx.get());

    // of a sequence that holds nothing else, too
    for (const size_t n : { 0, 100 }) {
        llama_memory_clear(mem, false);
        CHECK(focus(ctx, g_question) == 20 && read(ctx, n));
        llama_memory_seq_cp(mem, 0, 1, -1, -1);
        CHECK(capkv_n_focus(ctx.get(), 1) == 20 && capkv_unfocus(ctx.get(), 0));
        CHECK(capkv_n_focus(ctx.get(), 1) == 20);
        CHECK(focus(ctx, g_question) == 20 && positions(ctx, true) == range(n, n + 20));
        CHECK(read(ctx, 1, 0, 1)); // makes the copy
        CHECK(positions(ctx, true, 1) == range(0, 20));
        CHECK(n > 0 || queries(ctx, 1) == queries(ctx, 0));
        CHECK(read(ctx, 300, 3, 1) && tiny_stats(ctx.get(), 1).n_evictions > 0 && capkv_n_focus(ctx.get(), 1) == 20);
    }
}

static void test_states(llama_model * model) {
    auto ctx = tiny_context(model, "64", "capkv", 2);
    auto * mem = llama_get_memory(ctx.get());

    CHECK(focus(ctx, g_question) == 20);
    const auto before = queries(ctx);

    for (const size_t n : { 0, 300 }) {
        CHECK(read(ctx, n) && read(ctx, 30, 1, 1));

        std::vector<uint8_t> one(llama_state_seq_get_size(ctx.get(), 0));
        CHECK(llama_state_seq_get_data(ctx.get(), one.data(), one.size(), 0) == one.size());
        std::vector<uint8_t> all(llama_state_get_size(ctx.get()));
        CHECK(llama_state_get_data(ctx.get(), all.data(), all.size()) == all.size());
        const auto expected = logits(ctx);

        auto other = tiny_context(model, "64", "capkv", 2);
        CHECK(llama_state_seq_set_data(other.get(), one.data(), one.size(), 1) == one.size());
        CHECK(queries(other, 1) == before && capkv_n_focus(other.get(), 0) == 0 && logits(other, 1) == expected);

        other = tiny_context(model, "64", "capkv", 2);
        CHECK(llama_state_set_data(other.get(), all.data(), all.size()) == all.size());
        CHECK(queries(other) == before && logits(other) == expected);
        CHECK(positions(other, false) == positions(ctx, false));

        // a state without a question ends the one that is held, and so does one that is refused
        CHECK(focus(other, g_question, 1) == 20);
        all.assign(llama_state_seq_get_size(ctx.get(), 1), 0);
        CHECK(llama_state_seq_get_data(ctx.get(), all.data(), all.size(), 1) == all.size());
        CHECK(llama_state_seq_set_data(other.get(), all.data(), all.size(), 1) == all.size() && capkv_n_focus(other.get(), 1) == 0);
        CHECK(llama_state_seq_set_data(other.get(), one.data(), one.size() - 8, 0) == 0 && capkv_n_focus(other.get(), 0) == 0);
        CHECK(llama_memory_seq_rm(mem, 1, -1, -1));
    }
}

static void test_errors(llama_model * model) {
    auto ctx = tiny_context(model, "64", "capkv", 2);

    const uint32_t n_cells = tiny_stats(ctx.get()).n_cells;

    CHECK(focus(ctx, g_question) == 20);
    CHECK(read(ctx, n_cells - 10));
    const auto before = queries(ctx);

    CHECK(is_refused(focus(ctx, tiny_text(11, 1)), ("focus: 11 tokens, and 10 of " + std::to_string(n_cells) + " cells are free").c_str()));
    CHECK(is_refused(focus(ctx, { 5, TINY_N_VOCAB }), "focus: token = 128: allowed is 0 to 127"));
    CHECK(is_refused(focus(ctx, { -1 }),              "focus: token = -1: allowed is 0 to 127"));
    CHECK(is_refused(focus(ctx, {}),                  "focus: tokens: NULL is not allowed"));
    CHECK(is_refused(capkv_focus(ctx.get(), 0, g_question.data(), 0), "focus: 0 tokens: allowed is 1 or more"));
    CHECK(is_refused(focus(ctx, g_question, 2),       "seq_id = 2: allowed is 0 to 1"));
    CHECK(is_refused(capkv_n_focus(ctx.get(), -1),    "seq_id = -1: allowed is 0 to 1"));
    CHECK(is_refused(capkv_unfocus(ctx.get(), 2) - 1, "seq_id = 2: allowed is 0 to 1"));
    CHECK(queries(ctx) == before && tiny_stats(ctx.get()).n_evictions == 0);

    CHECK(focus(ctx, tiny_text(10, 1)) == 10 && tiny_stats(ctx.get()).n_used == n_cells - 10);
    CHECK(capkv_compress(ctx.get(), 0, 0) > 0 && focus(ctx, g_question) == 20);

    for (const char * policy : { "snapkv", "capkv-ref", "streaming", "tova" }) {
        auto other = tiny_context(model, "64", policy);
        CHECK(is_refused(focus(other, g_question), " keeps no sample of queries: allowed is capkv, h2o"));
        CHECK(strstr(capkv_last_error(), policy) && capkv_n_focus(other.get(), 0) == 0 && capkv_n_focus_max(other.get()) == 0 && capkv_unfocus(other.get(), 0) && read(other, 300));
    }
    auto full = tiny_context(model, "0");
    CHECK(capkv_n_focus_max(full.get()) == 0 && capkv_n_focus_max(nullptr) == 0);
    CHECK(is_refused(focus(full, g_question), "the context has no KV budget"));
    CHECK(is_refused(capkv_focus(nullptr, 0, g_question.data(), 1), "the context has no KV budget"));
}

// a batch that is aborted: no question is held, the text is as it was
static void test_abort(llama_model * model) {
    auto ctx = tiny_context(model, "64");
    CHECK(focus(ctx, g_question) == 20 && read(ctx, 40));

    llama_set_abort_callback(ctx.get(), [](void *) { return true; }, nullptr);
    CHECK(is_refused(focus(ctx, g_question), "focus: llama_decode() returned 2, the text is as it was, and no question is held"));
    llama_set_abort_callback(ctx.get(), nullptr, nullptr);

    CHECK(capkv_n_focus(ctx.get(), 0) == 0 && llama_memory_seq_pos_max(llama_get_memory(ctx.get()), 0) == 39);

    auto other = tiny_context(model, "64");
    CHECK(read(other, 40) && logits(ctx) == logits(other));
}

// the positions up to the trained length end before the cells do
static void test_trained_length(llama_model * model) {
    auto ctx = tiny_context(model, "64");

    auto batch = llama_batch_init(1, 0, 1);
    for (llama_pos pos : { 4096 - 12, 4096 - 11 }) {
        batch.n_tokens     = 1;
        batch.token[0]     = 7;
        batch.pos[0]       = pos;
        batch.n_seq_id[0]  = 1;
        batch.seq_id[0][0] = 0;
        batch.logits[0]    = 1;
        CHECK(llama_decode(ctx.get(), batch) == 0);
    }
    llama_batch_free(batch);

    CHECK(is_refused(focus(ctx, tiny_text(11)), "focus: 11 tokens, and 10 RoPE positions are left up to the trained length"));
    CHECK(tiny_stats(ctx.get()).n_reindexes == 0);
    CHECK(focus(ctx, tiny_text(10)) == 10);
}

int main() {
    tiny_quiet();

    const auto model = tiny_model("llama", 1, 0, 32); // heads that q8_0 can hold

    test_rows(model.get());
    test_removals(model.get());
    test_copies(model.get());
    test_states(model.get());
    test_errors(model.get());
    test_abort(model.get());
    test_trained_length(model.get());

    test_text(model.get(), "llama", "capkv");
    test_text(model.get(), "llama", "h2o");

    // sliding windows; recurrent layers; both
    for (const auto & arch : {
            tiny_arch { "gemma3" },
            tiny_arch { "jamba", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } } } },
            tiny_arch { "falcon-h1" },
            tiny_arch { "lfm2", 4, { { "attention.head_count_kv", { 0, 2, 0, 2 } }, { "attention.sliding_window", { 0 } } } } }) {
        const auto other = tiny_arch_model(arch);
        CHECK(other);
        test_text(other.get(), arch.name.c_str(), "capkv");
        test_window(other.get());
    }
}
