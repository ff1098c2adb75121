// damaged states, cut off or with flipped bytes: each is refused or read, and the context works afterwards
//
//   test-capkv-state-fuzz [n_flips = 40] [seed = 1] [n_step = 1024]
//
// n_flips: damaged copies with flipped bytes for each model and form (whole or one sequence; in memory or as a file)
// n_step:  states are cut off at every n_step-th byte

#include "tiny-model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

using bytes = std::vector<uint8_t>;

static constexpr size_t N_TEXT = 400;
static constexpr size_t N_HEAD = 48; // bytes of the frame's head: version, two sizes, hash of the first part, offset, hash of these

static uint64_t hash_bytes(const uint8_t * data, size_t size, uint64_t res = 0xcbf29ce484222325) {
    for (size_t i = 0; i < size; ++i) {
        res = (res ^ data[i])*0x100000001b3;
    }
    return res;
}

// the same of words of 8 bytes, and of the bytes that are left
static uint64_t hash_words(const uint8_t * data, size_t size) {
    uint64_t res = 0xcbf29ce484222325;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        res = (res ^ word)*0x100000001b3;
    }
    return hash_bytes(data + size/8*8, size % 8, res);
}

// offset and size of all but the tensors in a state (native/capkv-state-io.cpp)
static std::pair<size_t, size_t> find_meta(const bytes & data) {
    const std::string tag = "capkv";
    const size_t head = std::search(data.begin(), data.end(), tag.begin(), tag.end()) - data.begin() + tag.size();

    uint64_t n_meta;
    CHECK(head + N_HEAD <= data.size());
    memcpy(&n_meta, data.data() + head + 8, 8);
    CHECK(head + N_HEAD + n_meta < data.size());
    return { head + N_HEAD, n_meta };
}

// makes the hashes right again, so that the damage reaches the memory modules
static void seal(bytes & data) {
    const auto [offset, size] = find_meta(data);

    const uint64_t hash_meta = hash_words(data.data() + offset, size);
    memcpy(data.data() + offset - N_HEAD + 24, &hash_meta, 8);
    const uint64_t hash = hash_bytes(data.data() + offset - N_HEAD, N_HEAD - 8);
    memcpy(data.data() + offset - 8,      &hash, 8);
    memcpy(data.data() + data.size() - 8, &hash, 8);
}

// a context to read damaged states into: two sequences, of which only the first one is ever restored alone
struct fuzz {
    llama_model_ptr   model;
    llama_context_ptr ctx;
    std::string       name;
    std::string       path;
    bool              has_sample; // of queries: a question that was known before the text is in it

    size_t n_taken   = 0;
    size_t n_refused = 0;

    fuzz(const std::string & arch, const char * policy) : model(tiny_model(arch)), ctx(tiny_context(model.get(), "64", policy, 2)) {
        name = arch + ", " + policy;
        has_sample = policy == std::string("capkv");
        path = (std::filesystem::temp_directory_path()/("capkv-state-fuzz-" + std::to_string(std::random_device()()))).string();
    }
    ~fuzz() { remove(path.c_str()); }

    void fill() {
        llama_memory_clear(llama_get_memory(ctx.get()), true);
        const auto question = tiny_text(10, 8);
        CHECK((capkv_focus(ctx.get(), 0, question.data(), question.size()) > 0) == has_sample);
        for (llama_seq_id seq_id = 0; seq_id < 2; ++seq_id) {
            CHECK(tiny_read(ctx.get(), tiny_text(N_TEXT, seq_id), seq_id) == 0);
        }
    }

    // whether the state was read or refused: batches, evictions and saves work
    void check_usable(bool taken, llama_seq_id seq_id) {
        auto * mem = llama_get_memory(ctx.get());

        (taken ? n_taken : n_refused)++;

        for (llama_seq_id id = 0; id < 2; ++id) {
            capkv_stats stats;
            CHECK(capkv_get_stats(ctx.get(), id, &stats));
            CHECK(stats.n_used <= stats.n_cells);

            std::vector<int32_t> pos(stats.n_used);
            CHECK(capkv_get_positions(ctx.get(), id, capkv_layer(), 0, pos.data(), pos.size()) == (int32_t) pos.size());
        }

        // the full check is slow, and most states are refused: do it for every eighth of those
        if (!taken && n_refused % 8 != 0) {
            return;
        }

        CHECK(tiny_read(ctx.get(), tiny_text(40, 7)) == 0);
        CHECK(capkv_compress(ctx.get(), 0, 0) >= 0);
        CHECK(llama_state_get_size(ctx.get()) > 0);

        if (seq_id >= 0) {
            CHECK(llama_memory_seq_pos_max(mem, 1) == (llama_pos) N_TEXT - 1); // the other sequence is as it was
        }
    }

    int32_t capkv_layer() const {
        int32_t il = -1;
        CHECK(capkv_get_layers(ctx.get(), &il, 1) >= 1);
        return il;
    }

    bytes save(llama_seq_id seq_id) {
        bytes res(seq_id < 0 ? llama_state_get_size(ctx.get()) : llama_state_seq_get_size(ctx.get(), seq_id));
        CHECK((seq_id < 0 ? llama_state_get_data(ctx.get(), res.data(), res.size())
                          : llama_state_seq_get_data(ctx.get(), res.data(), res.size(), seq_id)) == res.size());
        return res;
    }

    void load(const bytes & data, llama_seq_id seq_id) {
        const bytes copy(data); // of exactly that size, so that a sanitizer sees a read past its end
        const size_t n = seq_id < 0 ? llama_state_set_data(ctx.get(), copy.data(), copy.size())
                                    : llama_state_seq_set_data(ctx.get(), copy.data(), copy.size(), seq_id);
        CHECK(n <= data.size());
        check_usable(n > 0, seq_id);
    }

    bytes save_file(llama_seq_id seq_id) {
        const auto text = tiny_text(10);
        CHECK(seq_id < 0 ? llama_state_save_file(ctx.get(), path.c_str(), text.data(), text.size())
                         : llama_state_seq_save_file(ctx.get(), path.c_str(), seq_id, text.data(), text.size()) > 0);
        std::ifstream file(path, std::ios::binary);
        return bytes(std::istreambuf_iterator<char>(file), {});
    }

    void load_file(const bytes & data, llama_seq_id seq_id) {
        std::ofstream(path, std::ios::binary).write((const char *) data.data(), data.size());
        std::vector<llama_token> text(10);
        size_t n_text = 0;
        const bool taken = seq_id < 0 ? llama_state_load_file(ctx.get(), path.c_str(), text.data(), text.size(), &n_text)
                                      : llama_state_seq_load_file(ctx.get(), path.c_str(), seq_id, text.data(), text.size(), &n_text) > 0;
        check_usable(taken, seq_id);
    }

    void run(size_t n_flips, size_t n_step, std::mt19937 & rng, bool as_file, llama_seq_id seq_id) {
        fill();
        const bytes whole = as_file ? save_file(seq_id) : save(seq_id);

        auto load_any = [&](const bytes & data) { as_file ? load_file(data, seq_id) : load(data, seq_id); };

        load_any(whole);
        CHECK(n_taken == 1 && n_refused == 0);
        fill();

        for (size_t n = 0; n < whole.size(); n += n_step) {
            load_any(bytes(whole.begin(), whole.begin() + n));
        }
        CHECK(n_taken == 1); // no state that was cut off is taken

        // most bytes of a state are K and V: damage half of the copies in the first part, where the rest is
        for (size_t i = 0; i < n_flips; ++i) {
            bytes data(whole);
            const size_t n = rng() % 4 == 0 ? 1 + rng() % 16 : 1;
            for (size_t j = 0; j < n; ++j) {
                data[rng() % (i % 2 == 0 ? std::min<size_t>(data.size(), 4096) : data.size())] ^= 1 + rng() % 255;
            }
            load_any(data);
        }
        // damage that the hashes do not show
        const auto [offset, size] = find_meta(whole);
        bytes sealed(whole);
        seal(sealed);
        CHECK(sealed == whole);
        for (size_t i = 0; i < n_flips; ++i) {
            bytes data(whole);
            const size_t at = offset + (i % 2 == 0 ? rng() % size : rng() % std::min<size_t>(size, 1024));
            if (rng() % 2) {
                data[at] ^= 1 + rng() % 255;
            } else { // one of its 32-bit numbers
                const uint32_t vals[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, (uint32_t) rng() };
                const size_t to = offset + (at - offset)/4*4;
                memcpy(data.data() + to, &vals[rng() % 7], std::min<size_t>(4, offset + size - to));
            }
            seal(data);
            load_any(data);
        }
        printf("%s, %s, %s: %zu bytes, %zu taken over, %zu refused\n", name.c_str(), seq_id < 0 ? "whole" : "one sequence",
                as_file ? "file" : "memory", whole.size(), n_taken, n_refused);
        n_taken = n_refused = 0;
    }
};

int main(int argc, char ** argv) {
    const size_t   n_flips = argc > 1 ? strtoul(argv[1], nullptr, 10) : 40;
    const uint32_t seed    = argc > 2 ? strtoul(argv[2], nullptr, 10) : 1;
    const size_t   n_step  = argc > 3 ? strtoul(argv[3], nullptr, 10) : 1024;

    CHECK(n_step > 0);

    tiny_quiet();
    std::mt19937 rng(seed);

    for (const auto & [arch, policy] : { std::pair("llama", "capkv"), std::pair("llama", "capkv-ref"), std::pair("gemma3", "capkv") }) {
        fuzz f(arch, policy);
        for (const bool as_file : { false, true }) {
            for (const llama_seq_id seq_id : { -1, 0 }) {
                f.run(n_flips, n_step, rng, as_file, seq_id);
            }
        }
    }
}
