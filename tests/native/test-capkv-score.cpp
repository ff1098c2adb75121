// capkv_score() on a device whose memory is not the host's: the scores of every policy are those of the CPU; and how many heads
// are scored together

#include "tiny-device.h"

#include "capkv-graph.h"

static std::vector<float> random_values(size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> dist;
    std::vector<float> res(n);
    for (auto & x : res) {
        x = dist(rng);
    }
    return res;
}

static std::vector<float> score(const char * device, const char * policy) {
    const int n = 96, n_head = 4, n_head_kv = 2, d = 32, n_q = 48;

    const auto k    = random_values(n_head_kv*n*d, 1);
    const auto v    = random_values(n_head_kv*n*d, 2);
    const auto mean = random_values(n_head*d, 3);
    const auto q    = random_values(n_q*n_head*d, 4);

    std::vector<float> cov(n_head*d*d, 0.0f);
    for (int h = 0; h < n_head; ++h) {
        for (int i = 0; i < d; ++i) {
            cov[(h*d + i)*d + i] = 0.5f;
        }
    }

    capkv_score_input in = {};
    in.n          = n;
    in.n_head     = n_head;
    in.n_head_kv  = n_head_kv;
    in.d_k        = d;
    in.d_v        = d;
    in.k          = k.data();
    in.v          = v.data();
    in.q_mean     = mean.data();
    in.q_cov      = cov.data();
    in.q          = q.data();
    in.n_q        = n_q;
    in.next_pos   = 200;
    in.rope_type  = LLAMA_ROPE_TYPE_NEOX;
    in.n_rot      = d;
    in.freq_base  = 10000.0f;
    in.graph_only = true;

    capkv_params params = capkv_default_params();
    CHECK(capkv_params_set(&params, "policy", policy));

    std::vector<float> res(n_head_kv*n, NAN);
    if (!capkv_score(device, &params, &in, res.data())) {
        fprintf(stderr, "%s on %s: %s\n", policy, device, capkv_last_error());
        exit(1);
    }
    return res;
}

static void check_groups() {
    int n_measured;

    // heads that take so many MiB each, and what all of them share
    auto group = [&](int64_t n_head_kv, size_t mib_head, size_t mib_shared) {
        n_measured = 0;
        return capkv_n_together(n_head_kv, capkv_work.host, [&](int64_t n_heads) {
            n_measured++;
            CHECK(n_heads >= 1 && n_heads <= n_head_kv);
            return (n_heads*mib_head + mib_shared) << 20;
        });
    };

    CHECK(group( 8,  2,  0) == 8 && n_measured == 1); // all of them take 16 MiB, the most that is allowed
    CHECK(group( 8,  2,  1) == 4);                    // 7 would fit: two groups of 4
    CHECK(group( 8,  3,  0) == 4);                    // 5 would fit
    CHECK(group( 8,  4,  4) == 3);                    // 3, 3 and 2
    CHECK(group(64,  1,  0) == 16);
    CHECK(group( 8, 16,  0) == 1);
    CHECK(group( 8, 99,  0) == 1);                    // one head takes more than is allowed
    CHECK(group( 1, 99,  0) == 1 && n_measured == 0);
}

int main() {
    check_groups();

    tiny_quiet();
    tiny_device_register();

    // with all operations, even those it only says it has, and with some that go back to the CPU
    const std::vector<ggml_op> missing = { GGML_OP_COUNT, GGML_OP_MUL_MAT, GGML_OP_SOFT_MAX, GGML_OP_ROPE };

    for (const auto op : missing) {
        g_tiny_device.refuses  = [op](const ggml_tensor * t) { return t->op == op; };
        g_tiny_device.has_ours = op == GGML_OP_COUNT;
        for (size_t i = 0; i < capkv_n_policies(); ++i) {
            const char * policy = capkv_get_policy(i)->name;

            const auto expected = score("CPU", policy);

            const int n_graphs = g_tiny_device.n_graphs;
            const auto got = score("TINY0", policy);
            CHECK(g_tiny_device.n_graphs > n_graphs || strcmp(policy, "random") == 0 || strcmp(policy, "streaming") == 0);

            const double err = tiny_nmse(got, expected);
            if (!(err < 1e-10)) {
                fprintf(stderr, "%s without %s: nmse = %g\n", policy, op == GGML_OP_COUNT ? "nothing" : ggml_op_name(op), err);
                return 1;
            }
        }
    }
}
