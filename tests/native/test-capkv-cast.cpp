// quantized cells in the attention of a batch: which batches get copies in F32, and that the copies change nothing but the roundings

#include "tiny-device.h"

#include "capkv-cast.h"
#include "kernels/dequantize.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <set>
#include <utility>

// names of the nodes that copy K and V, in the graphs since the last look
static std::set<std::string> g_copies;

static bool see(ggml_tensor * t, bool ask, void *) {
    if (ask && (strncmp(t->name, "k_f32", 5) == 0 || strncmp(t->name, "v_f32", 5) == 0)) {
        g_copies.insert(t->name);
    }
    return !ask;
}

static llama_context_ptr open(llama_model * model, const char * budget, ggml_type type_k, ggml_type type_v, uint32_t n_seq = 1) {
    auto params = tiny_context_params(n_seq);
    params.cb_eval = see;
    params.type_k  = type_k;
    params.type_v  = type_v;

    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget", budget));
    CHECK(capkv_params_set(&kv, "type", "f16"));
    capkv_set_next_params(&kv);

    llama_context_ptr res(llama_init_from_model(model, params));
    CHECK(res);
    return res;
}

// n tokens of each sequence in one batch; returns how many copies its graph had
static size_t n_copies(llama_context * ctx, int32_t n, int32_t n_seq = 1) {
    llama_batch batch = llama_batch_init(n*n_seq, 0, 1);
    for (llama_seq_id s = 0; s < n_seq; ++s) {
        const llama_pos pos = llama_memory_seq_pos_max(llama_get_memory(ctx), s) + 1;
        for (int32_t i = 0; i < n; ++i, ++batch.n_tokens) {
            batch.token[batch.n_tokens]     = (7*i + s) % TINY_N_VOCAB;
            batch.pos[batch.n_tokens]       = pos + i;
            batch.n_seq_id[batch.n_tokens]  = 1;
            batch.seq_id[batch.n_tokens][0] = s;
            batch.logits[batch.n_tokens]    = false;
        }
    }
    g_copies.clear();
    CHECK(llama_decode(ctx, batch) == 0);
    llama_batch_free(batch);
    return g_copies.size();
}

static void check_when() {
    const auto model = tiny_model("llama", 1, 0, 32);

    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q5_1, GGML_TYPE_BF16 }) {
        const auto ctx = open(model.get(), "64", type, type);
        for (const int32_t n : { 32, 1, 7, 8, 1, 32, 32, 32, 32, 32, 1, 32, 32 }) { // graphs that are reused, and evictions
            CHECK(n_copies(ctx.get(), n) == (n < CAPKV_CAST_TOKENS ? 0 : 4)); // of K and V in each of 2 layers
        }
        CHECK(tiny_stats(ctx.get()).n_evictions > 0);
    }
    CHECK(n_copies(open(model.get(), "64", GGML_TYPE_F16,  GGML_TYPE_Q8_0).get(), 32) == 4);
    CHECK(n_copies(open(model.get(), "64", GGML_TYPE_F16,  GGML_TYPE_F16) .get(), 32) == 0);
    CHECK(n_copies(open(model.get(), "64", GGML_TYPE_F32,  GGML_TYPE_F32) .get(), 32) == 0);
    CHECK(n_copies(open(model.get(), "0",  GGML_TYPE_Q8_0, GGML_TYPE_Q8_0).get(), 32) == 0);

    // what counts is the tokens of each sequence
    const auto many = open(model.get(), "64", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 4);
    CHECK(n_copies(many.get(), 7, 4) == 0);
    CHECK(n_copies(many.get(), 8, 4) == 4);
    CHECK(n_copies(many.get(), 8, 2) == 4);

    // the layers with a window too
    const auto windows = tiny_model("gemma3", 1, 0, 32);
    CHECK(n_copies(open(windows.get(), "64", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0).get(), 32) == 12);
    CHECK(n_copies(open(windows.get(), "0",  GGML_TYPE_Q8_0, GGML_TYPE_Q8_0).get(), 32) == 0);
}

// logits after a text that is read in batches of n_batch tokens
static std::vector<float> logits_of(const char * arch, ggml_type type, size_t n_batch, bool copies) {
    const auto model = tiny_model(arch, 1, 0, 32);
    const auto ctx   = open(model.get(), "512", type, type);
    const auto text  = tiny_text(256);

    g_copies.clear();
    for (size_t i = 0; i < text.size(); i += n_batch) {
        CHECK(tiny_read(ctx.get(), { text.begin() + i, text.begin() + std::min(i + n_batch, text.size()) }) == 0);
    }
    CHECK(g_copies.empty() == !copies);

    const float * res = llama_get_logits_ith(ctx.get(), -1);
    return { res, res + TINY_N_VOCAB };
}

static void check_logits() {
    for (const char * arch : { "llama", "gemma3" }) {
        const auto exact = logits_of(arch, GGML_TYPE_F16, 32, false);

        CHECK(tiny_nmse(logits_of(arch, GGML_TYPE_Q8_0, 32, true),  exact) < 1e-3);
        CHECK(tiny_nmse(logits_of(arch, GGML_TYPE_Q8_0, 4,  false), exact) < 1e-3);
        CHECK(tiny_nmse(logits_of(arch, GGML_TYPE_BF16, 32, true),  exact) < 1e-3);
        CHECK(tiny_nmse(logits_of(arch, GGML_TYPE_Q4_0, 32, true),  exact) > 1e-3); // that a difference would be seen

        CHECK(logits_of(arch, GGML_TYPE_Q8_0, 32, true) == logits_of(arch, GGML_TYPE_Q8_0, 32, true));
    }
}

// a copy has the values of the cells, for each order of their dimensions and number of threads
static void check_values() {
    const int64_t d = 64, n_head = 2, n = 37, n_stream = 3;

    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_Q4_1, GGML_TYPE_BF16, GGML_TYPE_F16 }) {
        ggml_context_ptr ctx(ggml_init({ 8u << 20, nullptr, false }));

        ggml_tensor * x = ggml_new_tensor_4d(ctx.get(), type, d, n_head, n, n_stream);
        std::vector<float> data(ggml_nelements(x));
        for (size_t i = 0; i < data.size(); ++i) {
            data[i] = std::sin(0.37f*i);
        }
        ggml_quantize_chunk(type, data.data(), x->data, 0, ggml_nrows(x), d, nullptr);

        ggml_tensor * copy = capkv_build_dequantize(ctx.get(), ggml_permute(ctx.get(), x, 0, 2, 1, 3)); // [d, n, n_head, n_stream]
        CHECK(copy->type == GGML_TYPE_F32 && copy->ne[1] == n && copy->ne[2] == n_head && copy->ne[3] == n_stream);

        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, copy);

        ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
        auto * set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
                ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu.get())), "ggml_backend_set_n_threads");

        for (const int n_threads : { 1, 2, 5 }) {
            set_n_threads(cpu.get(), n_threads);
            memset(copy->data, 0xff, ggml_nbytes(copy));
            CHECK(ggml_backend_graph_compute(cpu.get(), gf) == GGML_STATUS_SUCCESS);

            std::vector<float> row(d);
            for (int64_t i = 0; i < n_stream*n_head*n; ++i) {
                const int64_t s = i/n/n_head, h = i/n%n_head, c = i%n;
                ggml_get_type_traits(type)->to_float((const char *) x->data + h*x->nb[1] + c*x->nb[2] + s*x->nb[3], row.data(), d);
                CHECK(memcmp(row.data(), (const float *) copy->data + i*d, d*sizeof(float)) == 0);
            }
        }
    }
}

// copies take 256 MiB at most, counted in all cells of a cache
static void check_bound() {
    ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    ggml_backend_t   backends[] = { cpu.get() };
    ggml_backend_sched_ptr sched(ggml_backend_sched_new(backends, nullptr, 1, 64, false, false));

    auto wants = [&](int64_t n_cells, int64_t n_stream) {
        ggml_context_ptr ctx(ggml_init({ 16*ggml_tensor_overhead(), nullptr, true }));
        ggml_tensor * cells = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_Q8_0, 8*128, n_cells, n_stream);
        ggml_tensor * k     = ggml_view_4d(ctx.get(), cells, 128, 8, 256, n_stream, 136, 1088, cells->nb[2], 0); // 256 cells are in use
        k = ggml_permute(ctx.get(), k, 0, 2, 1, 3);
        return capkv_wants_cast(sched.get(), k, k, 32*n_stream);
    };

    CHECK( wants(32768, 1)); // 32768 cells, 1024 values of K and V, 4 bytes: 256 MiB
    CHECK(!wants(32768 + 256, 1));
    CHECK( wants(8192, 4));
    CHECK(!wants(8192, 5));
}

// a GPU computes on the cells as they are
static void check_device() {
    const auto model = tiny_model("llama", 1, 99, 32);
    CHECK(n_copies(open(model.get(), "64", GGML_TYPE_Q8_0, GGML_TYPE_Q8_0).get(), 32) == 0);
}

int main() {
    tiny_quiet();
    check_when();
    check_logits();
    check_values();
    check_bound();

    tiny_device_register();
    check_device();
}
