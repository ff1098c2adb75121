// an eviction of a cache on a device: every node is computed there, only indices, scores and sums cross, and it is waited for at most
// three times

#include "tiny-calls.h"
#include "tiny-device.h"

#include <algorithm>
#include <set>

static bool g_watch = false; // the evictions of a cache on the device

// of the graphs of evictions
static int    g_n_graphs = 0;
static int    g_n_nodes  = 0;
static int    g_n_other  = 0; // nodes that are not computed on the device
static int    g_n_waits  = 0;
static size_t g_n_get    = 0; // bytes read from the device

// nodes that are functions of this process, and those of them that were given to the device
static int g_n_custom      = 0;
static int g_n_custom_away = 0;

extern "C" ggml_status ggml_backend_sched_graph_compute_async(ggml_backend_sched_t sched, ggml_cgraph * gf) {
    REAL(ggml_backend_sched_graph_compute_async);

    for (int i = 0; g_scheds.count(sched) && i < ggml_graph_n_nodes(gf); ++i) {
        auto * node = ggml_graph_node(gf, i);
        if (node->op == GGML_OP_CUSTOM) {
            g_n_custom++;
            g_n_custom_away += ggml_backend_get_device(ggml_backend_sched_get_tensor_backend(sched, node)) == tiny_device_dev();
        }
    }
    if (g_watch && g_scheds.count(sched)) {
        g_n_graphs++;
        for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
            auto * node = ggml_graph_node(gf, i);
            if (tiny_is_view(node)) {
                continue;
            }
            g_n_nodes++;

            auto * backend = ggml_backend_sched_get_tensor_backend(sched, node);
            if (!backend || ggml_backend_get_device(backend) != tiny_device_dev()) {
                fprintf(stderr, "%s '%s' is computed on %s\n", ggml_op_desc(node), node->name, backend ? ggml_backend_name(backend) : "no backend");
                g_n_other++;
            }
        }
        CHECK(ggml_backend_sched_get_n_splits(sched) == 1);
    }
    return ggml_backend_sched_graph_compute_async_real(sched, gf);
}

extern "C" void ggml_backend_sched_synchronize(ggml_backend_sched_t sched) {
    REAL(ggml_backend_sched_synchronize);

    g_n_waits += g_n_graphs > 0 && g_scheds.count(sched); // not those while memory is reserved
    ggml_backend_sched_synchronize_real(sched);
}

extern "C" void ggml_backend_tensor_get_async(ggml_backend_t backend, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    REAL(ggml_backend_tensor_get_async);

    g_n_get += t->ne[0] == TINY_N_VOCAB ? 0 : size; // but for the logits of a batch
    ggml_backend_tensor_get_async_real(backend, t, data, offset, size);
}

static llama_context_ptr open(llama_model * model, const char * policy, ggml_type type) {
    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget", "64"));
    CHECK(capkv_params_set(&kv, "policy", policy));
    CHECK(capkv_params_set(&kv, "type", ggml_type_name(type)));
    capkv_set_next_params(&kv);

    llama_context_ptr res(llama_init_from_model(model, tiny_context_params()));
    CHECK(res);
    return res;
}

// positions that a head holds
static std::set<int32_t> held(llama_context * ctx, int32_t il, int32_t head) {
    std::vector<int32_t> pos(1024);
    const int32_t n = capkv_get_positions(ctx, 0, il, head, pos.data(), pos.size());
    CHECK(n > 0);
    return { pos.begin(), pos.begin() + n };
}

static void check(llama_model * model, llama_model * model_cpu, const char * policy, ggml_type type) {
    const auto ctx = open(model, policy, type);

    g_watch    = true;
    g_n_graphs = g_n_nodes = g_n_other = g_n_waits = 0;
    g_n_get = 0;

    CHECK(tiny_read(ctx.get(), tiny_text(600)) == 0);

    g_watch = false;

    capkv_stats st;
    CHECK(capkv_get_stats(ctx.get(), 0, &st));
    CHECK(st.n_evictions > 0);

    CHECK(g_n_nodes > 0 && g_n_other == 0);

    // the scores of all layers in one graph, their compaction in another
    CHECK(g_n_graphs == 2*(int) st.n_evictions);

    // one for each graph; the third is the wait for the batch before it
    const int n_waits_max = 2*(int) st.n_evictions;
    CHECK(g_n_waits <= n_waits_max);

    // for each of 2 layers and 2 KV heads of size 32: scores and weights of the entries, sums of all and of those that stay
    const size_t n_get_max = 2*2*(2*st.n_cells + 2*32*32)*sizeof(float);
    CHECK(g_n_get > 0 && g_n_get <= n_get_max*st.n_evictions);

    // each head of each layer keeps what it keeps on the CPU, where layers are scored one by one; sums round differently there
    const auto ctx_cpu = open(model_cpu, policy, type);
    CHECK(tiny_read(ctx_cpu.get(), tiny_text(600)) == 0);

    size_t n_same = 0, n_all = 0;
    for (int32_t il = 0; il < 2; ++il) {
        for (int32_t head = 0; head < 2; ++head) {
            const auto a = held(ctx    .get(), il, head);
            const auto b = held(ctx_cpu.get(), il, head);
            n_all += b.size();
            n_same += std::count_if(a.begin(), a.end(), [&](int32_t pos) { return b.count(pos); });
        }
    }
    CHECK(n_same >= 0.97*n_all);
}

// what is computed by a function of this process is not given to a device, even if that says it could
static void check_ours(llama_model * model) {
    for (const bool has_ours : { false, true }) {
        g_tiny_device.has_ours = has_ours;
        g_n_custom = g_n_custom_away = 0;

        const auto ctx = open(model, "capkv-ref", GGML_TYPE_F16);
        CHECK(tiny_read(ctx.get(), tiny_text(600)) == 0);
        CHECK(g_n_custom > 0 && g_n_custom_away == 0);
    }
}

int main() {
    tiny_quiet();
    tiny_device_register();

    const auto model     = tiny_model("llama", 1, /*n_gpu_layers =*/ 99, 32);
    const auto model_cpu = tiny_model("llama", 1, /*n_gpu_layers =*/ 0,  32);

    for (const char * policy : { "capkv", "snapkv", "tova", "h2o", "expected", "keydiff", "knorm", "streaming", "random" }) {
        for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
            check(model.get(), model_cpu.get(), policy, type);
        }
    }

    check_ours(model.get());
}
