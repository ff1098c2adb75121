// an eviction of a cache on a device: every node is computed there, only indices, scores and sums cross, and it is waited for at most
// three times. With layers on several devices, or some on the CPU, each one evicts where it lives
//
// The devices are one that is made up, and all that ggml finds. CAPKV_TEST_RPC = "HOST:PORT,HOST:PORT" adds those of RPC servers

#include "tiny-counts.h"
#include "tiny-device.h"

#include <algorithm>

static const char * const POLICIES[] = { "capkv", "snapkv", "tova", "h2o", "expected", "keydiff", "knorm", "streaming", "random" };

static constexpr int N_LAYER   = 2;
static constexpr int N_HEAD_KV = 2;
static constexpr int D         = 64; // of a head; every flash attention has this size
static constexpr int N_READ    = 600;

// a model whose first layers are on the CPU, and of the others one on each device; the last device has its output
static llama_model_ptr model_on(std::vector<ggml_backend_dev_t> devices, int n_layer_cpu = 0) {
    CHECK(devices.size() <= (size_t) N_LAYER);

    std::vector<float> shares(llama_max_devices());
    if (devices.size() == 2) {
        shares[0] = 1.0f;
        shares[1] = 4.0f;
    }
    devices.push_back(nullptr);

    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = N_LAYER + 1 - n_layer_cpu;
    params.devices      = devices.data();
    params.tensor_split = shares.data();
    return tiny_model("llama", 1, D, params);
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

static std::string name_of(const std::vector<ggml_backend_dev_t> & devices, int n_layer_cpu) {
    std::string res = n_layer_cpu > 0 ? "CPU" : "";
    for (auto * dev : devices) {
        res += (res.empty() ? "" : "+") + std::string(ggml_backend_dev_name(dev));
    }
    return res;
}

// n_layer_cpu: layers whose caches are on the CPU; each of the devices has the cache of at least one
static void check(
        llama_model * model, llama_model * model_cpu, const std::vector<ggml_backend_dev_t> & devices, int n_layer_cpu, const char * policy, ggml_type type) {
    const auto is_on = [&](ggml_backend_dev_t dev) { return std::find(devices.begin(), devices.end(), dev) != devices.end(); };

    const auto ctx = open(model, policy, type);

    int n_on  = 0; // nodes on the devices
    int n_off = 0; // and elsewhere

    g_counts   = {};
    g_on_graph = [&](ggml_backend_sched_t sched, ggml_cgraph * gf) {
        tiny_each_node(sched, gf, [&](ggml_tensor * node, ggml_backend_dev_t dev) {
            (is_on(dev) ? n_on : n_off)++;
            if (n_layer_cpu == 0 && !is_on(dev)) {
                fprintf(stderr, "%s '%s' is computed on %s\n", ggml_op_desc(node), node->name, ggml_backend_dev_name(dev));
            }
        });
    };
    CHECK(tiny_read(ctx.get(), tiny_text(N_READ)) == 0);
    g_on_graph = nullptr;

    const capkv_stats st = tiny_stats(ctx.get());
    const auto        c  = g_counts;
    const int         n  = st.n_evictions;
    CHECK(n > 0);

    printf("%-24s %-10s %-5s %5d nodes on it, %4d elsewhere; bytes: %6zu written, %6zu read, %zu copied; %.1f waits\n",
        name_of(devices, n_layer_cpu).c_str(), policy, ggml_type_name(type), n_on/n, n_off/n, c.n_set/n, c.n_get/n, c.n_copy/n, (double) c.n_waits/n);
    fflush(stdout);

    for (auto * dev : devices) {
        CHECK(c.nodes(dev) > 0);
    }
    CHECK(n_layer_cpu == 0 ? n_off == 0 : n_off > 0);

    // the scores of all layers in one graph, their compaction in another, and in these one part for each device
    const int n_parts = devices.size() + (n_layer_cpu > 0);
    CHECK(c.n_graphs == 2*n);
    CHECK(c.n_splits == 2*n*n_parts);

    // once for each device and graph; the third is the wait for the batch before it
    CHECK(c.n_waits > 0 && c.n_waits <= 2*n*(int) devices.size());

    // no tensor is needed elsewhere than where it is
    CHECK(c.n_copy == 0);

    // scores and weights of the entries, sums of all and of those that stay
    const size_t n_heads   = (N_LAYER - n_layer_cpu)*N_HEAD_KV;
    const size_t n_get_max = n_heads*(2*st.n_cells + 2*D*D)*sizeof(float);
    CHECK(c.n_get > 0 && c.n_get <= n*n_get_max);

    // each head of each layer keeps what it keeps on the CPU, where layers are scored one by one; sums round differently there
    const auto ctx_cpu = open(model_cpu, policy, type);
    CHECK(tiny_read(ctx_cpu.get(), tiny_text(N_READ)) == 0);

    size_t n_same = 0, n_all = 0;
    for (int32_t il = 0; il < N_LAYER; ++il) {
        for (int32_t head = 0; head < N_HEAD_KV; ++head) {
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

        int n_custom = 0;
        g_on_graph = [&](ggml_backend_sched_t sched, ggml_cgraph * gf) {
            tiny_each_node(sched, gf, [&](ggml_tensor * node, ggml_backend_dev_t dev) {
                n_custom += node->op == GGML_OP_CUSTOM;
                CHECK(node->op != GGML_OP_CUSTOM || dev != tiny_device_dev());
            });
        };

        const auto ctx = open(model, "capkv-ref", GGML_TYPE_F16);
        CHECK(tiny_read(ctx.get(), tiny_text(N_READ)) == 0);
        g_on_graph = nullptr;
        CHECK(n_custom > 0);
    }
}

// the one that is made up, and others: those of RPC servers and of this machine
static std::vector<ggml_backend_dev_t> find_devices() {
    std::vector<void *> found(llama_max_devices());

    if (const char * servers = getenv("CAPKV_TEST_RPC")) {
        const int32_t n = capkv_rpc_devices(servers, found.data(), found.size());
        if (n < 0) {
            fprintf(stderr, "%s\n", capkv_last_error());
            exit(1);
        }
        found.resize(n);
        CHECK(found.back() == tiny_device_dev()); // after those of the servers
    } else {
        found.clear();
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            const auto type = ggml_backend_dev_type(ggml_backend_dev_get(i));
            if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) {
                found.push_back(ggml_backend_dev_get(i));
            }
        }
    }

    std::vector<ggml_backend_dev_t> res = { tiny_device_dev() };
    for (void * dev : found) {
        if (dev != tiny_device_dev()) {
            res.push_back((ggml_backend_dev_t) dev);
        }
    }
    return res;
}

int main() {
    tiny_quiet();
    tiny_device_register();

    const auto devices   = find_devices();
    const auto model_cpu = model_on({}, N_LAYER + 1);

    auto check_all = [&](const std::vector<ggml_backend_dev_t> & on, int n_layer_cpu) {
        const auto model = model_on(on, n_layer_cpu);
        for (const char * policy : POLICIES) {
            for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
                check(model.get(), model_cpu.get(), on, n_layer_cpu, policy, type);
            }
        }
    };

    for (size_t i = 0; i < devices.size(); ++i) {
        check_all({ devices[i] }, 0);
        check_all({ devices[i] }, 1);
        if (i > 0) {
            check_all({ devices[i - 1], devices[i] }, 0);
        }
    }

    check_ours(model_on({ tiny_device_dev() }).get());
}
