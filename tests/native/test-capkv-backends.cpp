// evictions on Metal, CUDA and Vulkan, without a device. The backends' own functions, compiled from the source of llama.cpp, say which
// nodes of every policy they have; what they lack would be computed on the CPU, and is in the table below. Metal's encoder begins the
// kernels of each graph: they are there, and need no more than a threadgroup has

#include "tiny-calls.h"
#include "tiny-device.h"

#include "backend-rules/rules.h"

#include <algorithm>

struct backend {
    const char * name;

    std::function<bool(const ggml_tensor * op)> has;

    int64_t n_max = 0; // entries of a long cache; 0: the same as the one before

    const metal_chip * chip = nullptr; // of Metal
};

static const metal_chip g_chips[] = {
    //                             reduction  mm     bfloat tensor
    { "Metal, M1 to M4",           true,      true,  true,  false },
    { "Metal, M5",                 true,      true,  true,  true  },
    { "Metal, no bfloat",          true,      true,  false, false },
    { "Metal, AMD with Metal 3",   true,      false, true,  false },
    { "Metal, before Metal 3",     false,     false, false, false },
};

// what runs on the CPU
static const struct {
    const char * backend; // begins with this
    const char * policy;  // begins with this
    bool         batch;   // in the graph of a batch, not in that of an eviction
    const char * ops;
    const char * why;
} g_on_cpu[] = {
    { "",                        "",          true,  "GET_ROWS",                               "llama.cpp keeps the token embeddings on the host" },
    { "",                        "capkv-ref", false, "*",                                      "a reference: it factors on the host, with what is next to that" },
    { "",                        "leverage",  false, "*",                                      "a reference too" },
    { "Metal, AMD with Metal 3", "",          true,  "FLASH_ATTN_EXT",                         "ggml's attention needs products of SIMD groups" },
    { "Metal, before Metal 3",   "",          true,  "*",                                      "ggml multiplies no matrices on such a GPU" },
    { "Metal, before Metal 3",   "",          false, "*",                                      "nor here" },
};

static const backend * g_backend = nullptr;
static const char    * g_policy  = "";

static size_t g_n_nodes   = 0; // of evictions, on the device
static size_t g_n_kernels = 0; // that Metal's encoder began
static size_t g_n_seen[sizeof(g_on_cpu)/sizeof(g_on_cpu[0])] = {};

static bool begins_with(const char * s, const char * prefix) {
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static void check_on_cpu(const ggml_tensor * node, bool batch) {
    for (size_t i = 0; i < sizeof(g_on_cpu)/sizeof(g_on_cpu[0]); ++i) {
        const auto & row = g_on_cpu[i];
        if (row.batch == batch && begins_with(g_backend->name, row.backend) && begins_with(g_policy, row.policy) &&
                (strcmp(row.ops, "*") == 0 || (" " + std::string(row.ops) + " ").find(" " + std::string(ggml_op_name(node->op)) + " ") != std::string::npos)) {
            g_n_seen[i]++;
            return;
        }
    }
    fprintf(stderr, "%s, policy %s, %s: %s '%s' would be computed on the CPU\n",
            g_backend->name, g_policy, batch ? "batch" : "eviction", ggml_op_desc(node), node->name);
    for (const ggml_tensor * t : { node, (const ggml_tensor *) node->src[0], (const ggml_tensor *) node->src[1] }) {
        if (t) {
            fprintf(stderr, "    %s [%lld, %lld, %lld, %lld] strides %zu %zu %zu %zu\n", ggml_type_name(t->type),
                    (long long) t->ne[0], (long long) t->ne[1], (long long) t->ne[2], (long long) t->ne[3], t->nb[0], t->nb[1], t->nb[2], t->nb[3]);
        }
    }
    exit(1);
}

extern "C" bool ggml_backend_sched_alloc_graph(ggml_backend_sched_t sched, ggml_cgraph * gf) {
    REAL(ggml_backend_sched_alloc_graph);

    const bool res = ggml_backend_sched_alloc_graph_real(sched, gf);

    for (int i = 0; g_backend && i < ggml_graph_n_nodes(gf); ++i) {
        auto * node = ggml_graph_node(gf, i);
        if (tiny_is_view(node)) {
            continue;
        }
        const bool batch = !g_scheds.count(sched);
        if (ggml_backend_get_device(ggml_backend_sched_get_tensor_backend(sched, node)) != tiny_device_dev()) {
            check_on_cpu(node, batch);
        } else {
            g_n_nodes += !batch;
        }
    }
    return res;
}

// Metal's kernels read four floats at once where a row has a multiple of four
static void check_alignment(const ggml_tensor * node) {
    for (const ggml_tensor * t : node->src) {
        if (t && t->type == GGML_TYPE_F32 && t->ne[0] % 4 == 0 && t->nb[0] == sizeof(float)) {
            CHECK((size_t) t->data % 16 == 0 && (t->ne[1] == 1 || t->nb[1] % 16 == 0) && t->nb[2] % 16 == 0 && t->nb[3] % 16 == 0);
        }
    }
}

static void check_kernels(ggml_cgraph * gf) {
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);
        CHECK(node->flags & GGML_TENSOR_FLAG_COMPUTE); // or it is left out
        if (!tiny_is_view(node)) {
            check_alignment(node);
        }
    }
    for (const auto & d : metal_encode(*g_backend->chip, gf)) {
        const int64_t n_threads = (int64_t) d.threads[0]*d.threads[1]*d.threads[2];
        const bool    ok        = metal_has_kernel(d.kernel) && d.n_mem <= 32*1024 && n_threads >= 1 && n_threads <= 1024 &&
            d.grid[0] >= 1 && d.grid[1] >= 1 && d.grid[2] >= 1;
        if (!ok) {
            fprintf(stderr, "%s, policy %s: kernel %s (%s in the source), grid %d %d %d, threads %d %d %d, %zu bytes of a threadgroup\n",
                    g_backend->name, g_policy, d.kernel.c_str(), metal_has_kernel(d.kernel) ? "is" : "is not",
                    d.grid[0], d.grid[1], d.grid[2], d.threads[0], d.threads[1], d.threads[2], d.n_mem);
            exit(1);
        }
        g_n_kernels++;
    }
}

// two sequences read a text, and evict; then one of them goes on by single tokens
static void run(llama_model * model, ggml_type type, const char * reindex) {
    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget", "64"));
    CHECK(capkv_params_set(&kv, "policy", g_policy));
    CHECK(capkv_params_set(&kv, "type", ggml_type_name(type)));
    CHECK(capkv_params_set(&kv, "reindex", reindex));
    capkv_set_next_params(&kv);

    const llama_context_ptr ctx(llama_init_from_model(model, tiny_context_params(2)));
    CHECK(ctx);

    for (llama_seq_id seq_id : { 0, 1 }) {
        CHECK(tiny_read(ctx.get(), tiny_text(300), seq_id) == 0);

        const capkv_stats st = tiny_stats(ctx.get(), seq_id);
        CHECK(st.n_evictions > 0);
        CHECK((st.n_reindexes > 0) == (strcmp(reindex, "always") == 0));
    }
    CHECK(tiny_go_on(ctx.get(), 2).size() == 2);
}

// scores of more entries, in the shapes of large models
static void run_scores(int64_t n, int64_t d) {
    const int64_t r = 4, n_q = 90;

    const std::vector<float> zero(std::max({ n*d, n_q*r*d, r*d*d }));

    capkv_score_input in = {};
    in.n         = n;
    in.n_head    = r;
    in.n_head_kv = 1;
    in.d_k       = d;
    in.d_v       = d;
    in.k         = zero.data();
    in.v         = zero.data();
    in.q_mean    = zero.data();
    in.q_cov     = zero.data();
    in.q         = zero.data();
    in.n_q       = n_q;
    in.next_pos  = n;
    in.rope_type = LLAMA_ROPE_TYPE_NEOX;
    in.n_rot     = d;
    in.freq_base = 500000.0f;

    capkv_params params = capkv_default_params();
    CHECK(capkv_params_set(&params, "policy", g_policy));

    std::vector<float> scores(n);
    CHECK(capkv_score("TINY0", &params, &in, scores.data()));
}

int main() {
    tiny_quiet();
    tiny_device_register();
    g_tiny_device.computes = false;

    const llama_model_ptr models[] = { tiny_model("llama", 1, 99, 64), tiny_model("gemma3", 1, 99, 64) };

    std::vector<backend> backends;
    for (const auto & chip : g_chips) {
        backends.push_back({ chip.name, [&chip](const ggml_tensor * op) { return metal_has_op(chip, op); }, &chip == g_chips ? 131072 : 0, &chip });
    }
    backends.push_back({ "CUDA", cuda_has_op, 131072 });
    // by the bytes of a buffer that a kernel can use: of a graphics card, and the least that Vulkan guarantees
    backends.push_back({ "Vulkan, 1 GiB",   [](const ggml_tensor * op) { return vulkan_has_op(1u << 30,   op); }, 131072 });
    backends.push_back({ "Vulkan, 128 MiB", [](const ggml_tensor * op) { return vulkan_has_op(128u << 20, op); }, 65536 });

    for (const auto & b : backends) {
        g_backend = &b;
        g_n_nodes = g_n_kernels = 0;

        g_tiny_device.refuses  = [&b](const ggml_tensor * op) { return !b.has(op); };
        g_tiny_device.looks_at = [&b](ggml_cgraph * gf) { if (b.chip) { check_kernels(gf); } };

        for (size_t i = 0; i < capkv_n_policies(); ++i) {
            g_policy = capkv_get_policy(i)->name;

            for (const auto & model : models) {
                for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
                    for (const char * reindex : { "never", "always" }) {
                        run(model.get(), type, reindex);
                    }
                }
            }
            for (const int64_t d : { 64, 128, 256 }) {
                run_scores(1536, d);
            }
            if (b.n_max > 0) {
                run_scores(b.n_max, 128);
            }
        }
        printf("%-24s %zu nodes of evictions on the device, %zu kernels begun\n", b.name, g_n_nodes, g_n_kernels);
        CHECK(g_n_nodes > 0 && (g_n_kernels > 0) == (b.chip != nullptr));
    }

    for (size_t i = 0; i < sizeof(g_on_cpu)/sizeof(g_on_cpu[0]); ++i) {
        const auto & row = g_on_cpu[i];
        printf("on the CPU: %-24s %-10s %-9s %s (%s)\n", *row.backend ? row.backend : "all", *row.policy ? row.policy : "all",
                row.batch ? "batch" : "eviction", row.ops, row.why);
        CHECK(g_n_seen[i] > 0);
    }
}
