// the frame around a saved state of a context with a budget: a state is verified before any of it is parsed
//
// A memory module reads counts and positions in between its tensors, and trusts them. In the frame they come first, with their size and a
// hash, and the tensors follow. Those are passed on as they come (a state on a device stays there) and are not hashed: altered bytes of K
// and V are still K and V.
//
//   "capkv"               as llama_io_write_i::write_string() writes it: to a context without a budget it is a wrong architecture
//   capkv_state_head
//   all but the tensors
//   the tensors
//   hash of the head      the state is not cut off

#include "capkv-hooks.h"
#include "capkv-update.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-io.h"

#include <algorithm>
#include <cstring>

static constexpr char     CAPKV_FRAME_TAG[]   = { 5, 0, 0, 0, 'c', 'a', 'p', 'k', 'v' };
static constexpr uint64_t CAPKV_FRAME_VERSION = 3;

struct capkv_state_head {
    uint64_t version;
    uint64_t n_meta; // bytes of all but the tensors
    uint64_t n_data; // bytes of the tensors
    uint64_t hash_meta;
    int64_t  pos_offset; // position minus RoPE position, of a single sequence; version 1 has no such field
    uint64_t hash;       // of the fields above
};

// FNV-1a: it sees every change of a single byte
static uint64_t capkv_hash_bytes(const void * data, size_t size, uint64_t res = 0xcbf29ce484222325) {
    for (size_t i = 0; i < size; ++i) {
        res = (res ^ ((const uint8_t *) data)[i])*0x100000001b3;
    }
    return res;
}

// the same of words of 8 bytes, and of the bytes that are left: the position table of a long cache has hundreds of megabytes
static uint64_t capkv_hash_meta(const std::vector<uint8_t> & meta, uint64_t version) {
    if (version < 3) {
        return capkv_hash_bytes(meta.data(), meta.size());
    }
    uint64_t res = 0xcbf29ce484222325;
    size_t i = 0;
    for (; i + 8 <= meta.size(); i += 8) {
        uint64_t word;
        memcpy(&word, meta.data() + i, sizeof(word));
        res = (res ^ word)*0x100000001b3;
    }
    return capkv_hash_bytes(meta.data() + i, meta.size() - i, res);
}

[[noreturn]] static void capkv_state_damaged(const std::string & why) {
    const std::string msg = "the saved state is damaged or was saved without a KV budget: " + why;
    capkv_set_last_error(msg);
    throw capkv_error(msg);
}

// the io inside a frame
class capkv_io_framed {
public:
    virtual ~capkv_io_framed() = default;
};

// first pass: keeps all but the tensors, and counts their bytes
class capkv_io_collect : public llama_io_write_i, public capkv_io_framed {
public:
    void write(const void * src, size_t size) override {
        meta.insert(meta.end(), (const uint8_t *) src, (const uint8_t *) src + size);
    }
    void write_tensor(ggml_tensor *, size_t, size_t size) override { n_data += size; }
    size_t n_bytes() override { return meta.size() + n_data; }

    std::vector<uint8_t> meta;
    uint64_t n_data = 0;
};

// second pass: the tensors alone
class capkv_io_write_data : public llama_io_write_i, public capkv_io_framed {
public:
    capkv_io_write_data(llama_io_write_i & io) : io(io) {}

    void write(const void *, size_t) override {}
    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override { io.write_tensor(tensor, offset, size); }
    size_t n_bytes() override { return io.n_bytes(); }

private:
    llama_io_write_i & io;
};

class capkv_io_read : public llama_io_read_i, public capkv_io_framed {
public:
    capkv_io_read(llama_io_read_i & io, std::vector<uint8_t> meta, uint64_t n_data) : io(io), meta(std::move(meta)), n_data(n_data) {}

    void read(void * dst, size_t size) override {
        if (size > meta.size() - n_meta) {
            capkv_state_damaged("it ends too early");
        }
        if (size > 0) {
            memcpy(dst, meta.data() + n_meta, size);
        }
        n_meta += size;
    }
    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        if (size > n_data) {
            capkv_state_damaged("it holds too few bytes of K and V");
        }
        io.read_tensor(tensor, offset, size);
        n_data -= size;
    }
    void discard() override { io.discard(); }
    size_t n_bytes() override { return io.n_bytes(); }

    bool all_read() const { return n_meta == meta.size() && n_data == 0; }

private:
    llama_io_read_i & io;

    const std::vector<uint8_t> meta;
    size_t   n_meta = 0; // read
    uint64_t n_data;     // left
};

bool capkv_state_write(llama_context & lctx, llama_io_write_i & io, llama_seq_id seq_id, const std::function<void(llama_io_write_i &)> & write) {
    if (dynamic_cast<capkv_io_framed *>(&io) || !capkv_memory::find(lctx.get_memory())) {
        return false;
    }

    capkv_apply_pending_copies(lctx);
    capkv_shift_windows_read(lctx);

    capkv_io_collect collected;
    write(collected);

    capkv_state_head head = { CAPKV_FRAME_VERSION, collected.meta.size(), collected.n_data, 0, 0, 0 };
    head.hash_meta  = capkv_hash_meta(collected.meta, head.version);
    head.pos_offset = seq_id == -1 ? 0 : capkv_memory::find(lctx.get_memory())->pos_offset(seq_id);
    head.hash       = capkv_hash_bytes(&head, offsetof(capkv_state_head, hash));

    io.write(CAPKV_FRAME_TAG, sizeof(CAPKV_FRAME_TAG));
    io.write(&head, sizeof(head));
    io.write(collected.meta.data(), collected.meta.size());

    capkv_io_write_data data(io);
    write(data);

    io.write(&head.hash, sizeof(head.hash));

    return true;
}

// a file that ends early gives no error: what it does not have stays zero
static capkv_state_head capkv_read_head(llama_io_read_i & io) {
    char tag[sizeof(CAPKV_FRAME_TAG)] = {};
    io.read(tag, sizeof(tag));
    if (memcmp(tag, CAPKV_FRAME_TAG, sizeof(tag)) != 0) {
        capkv_state_damaged("it begins with something else");
    }

    capkv_state_head head = {};
    io.read(&head.version, sizeof(head.version));

    const size_t n_fields = head.version == 1 ? offsetof(capkv_state_head, pos_offset) : offsetof(capkv_state_head, hash); // bytes that the hash is of
    io.read(&head.n_meta, n_fields - sizeof(head.version));
    io.read(&head.hash, sizeof(head.hash));
    if (head.hash != capkv_hash_bytes(&head, n_fields)) {
        capkv_state_damaged("its head is altered");
    }
    if (head.version < 1 || head.version > CAPKV_FRAME_VERSION) {
        capkv_state_damaged("the version of its frame is " + std::to_string(head.version) + ", here it is " + std::to_string(CAPKV_FRAME_VERSION));
    }
    if (head.pos_offset < -CAPKV_STATE_MAX_POS || head.pos_offset > CAPKV_STATE_MAX_POS) {
        capkv_state_damaged("its keys are rotated to positions that are too far");
    }
    return head;
}

// throws if cells of the sequence, or with -1 of all, cannot have come about: the state was made up
static void capkv_check_cells(const llama_memory_i * mem, llama_seq_id seq_id) {
    for (const auto * kv : capkv_memory::caches(mem)) {
        for (const uint32_t s : capkv_memory::streams_of(*kv, seq_id)) {
            const auto & cells = kv->get_cells(s);

            uint32_t n_used = 0;
            for (uint32_t i = 0; i < cells.size(); ++i) {
                if (cells.is_empty(i)) {
                    continue;
                }
                // each sequence has its stream; positions leave room for a text to go on
                if (cells.seq_count(i) != 1 || !cells.seq_has(i, s) || cells.pos_get(i) < 0 || cells.pos_get(i) > CAPKV_STATE_MAX_POS) {
                    capkv_state_damaged("a cell contradicts itself");
                }
                n_used++;
            }
            if (n_used != cells.get_used()) {
                capkv_state_damaged("a cell has no position");
            }
            const auto * cache = capkv_memory::find(kv);
            if (cache && cache->pos_tail(s) > cells.seq_pos_max(s) + 1) {
                capkv_state_damaged("its tail begins after its end");
            }
        }
    }
}

bool capkv_state_read(llama_context & lctx, llama_io_read_i & io, llama_seq_id seq_id, const std::function<void(llama_io_read_i &)> & read) {
    if (dynamic_cast<capkv_io_framed *>(&io) || !capkv_memory::find(lctx.get_memory())) {
        return false;
    }

    auto * mem = lctx.get_memory();

    const auto head = capkv_read_head(io);

    std::vector<uint8_t> meta;
    while (meta.size() < head.n_meta) { // in steps, so that a wrong size does not allocate more than there is
        const size_t n = std::min<uint64_t>(head.n_meta - meta.size(), 1 << 20);
        meta.resize(meta.size() + n);
        io.read(meta.data() + meta.size() - n, n);
    }
    if (head.hash_meta != capkv_hash_meta(meta, head.version)) {
        capkv_state_damaged("it is altered or cut off");
    }

    capkv_apply_pending_copies(lctx);

    // up to here the context is as it was; from here on the sequence gets the whole state, or is left empty
    capkv_set_last_error("");
    try {
        capkv_io_read rest(io, std::move(meta), head.n_data);
        read(rest);

        uint64_t end = ~head.hash; // a file that ends early leaves the bytes that it lacks as they are
        if (rest.all_read()) {
            io.read(&end, sizeof(end));
        }
        if (end != head.hash) {
            capkv_state_damaged("it is cut off");
        }
        capkv_check_cells(mem, seq_id);

        if (seq_id != -1) {
            capkv_memory::find(mem)->windows_read(seq_id, (llama_pos) head.pos_offset);
        }
        if (seq_id != -1 && capkv_memory::find(mem)->n_used(seq_id) == 0) {
            const auto pins = capkv_memory::find(mem)->get_pins(seq_id); // of a text that was not begun
            mem->seq_rm(seq_id, -1, -1); // the cells of its sliding windows too
            for (const auto & r : pins) {
                capkv_memory::find(mem)->pin(seq_id, r.p0, r.p1);
            }
        }
    } catch (...) {
        capkv_drop(mem, seq_id);
        if (*capkv_last_error()) {
            throw capkv_error(capkv_last_error()); // llama_kv_cache makes one message of all that is wrong with the cells
        }
        throw;
    }

    return true;
}
