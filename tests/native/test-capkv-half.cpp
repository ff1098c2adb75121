// scores of a device that rounds what it multiplies to 10 bits: every policy gives nearly the scores of the CPU

#include "tiny-device.h"

#include <algorithm>
#include <numeric>

static float to_tf32(float x) {
    int exp;
    const float m = std::frexp(x, &exp); // |m| in [1/2, 1)
    return std::ldexp(std::nearbyint(m*2048.0f), exp - 11);
}

// as Metal and Vulkan do. Smaller numbers than the normal ones may be taken for zero there
static float to_half(float x) {
    return std::fabs(x) < 6.104e-5f ? 0.0f : ggml_fp16_to_fp32(ggml_fp32_to_fp16(x));
}

static float (* g_round)(float) = to_half;

static std::vector<float> rounded(const ggml_tensor * t) {
    const float * data = (const float *) t->data;

    std::vector<float> res(data, data + ggml_nbytes(t)/sizeof(float));
    std::transform(res.begin(), res.end(), res.begin(), g_round);
    return res;
}

static int g_n_products = 0;

static void compute(ggml_cgraph * gf) {
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        ggml_tensor * node = ggml_graph_node(gf, i);
        ggml_tensor * a    = node->src[0];
        ggml_tensor * b    = node->src[1];

        ggml_cgraph one = ggml_graph_view(gf, i, i + 1);

        if (node->op != GGML_OP_MUL_MAT) {
            CHECK(ggml_backend_graph_compute(g_tiny_device.cpu, &one) == GGML_STATUS_SUCCESS);
            continue;
        }
        CHECK(a->type == GGML_TYPE_F32 && b->type == GGML_TYPE_F32);

        std::vector<float> a_half = rounded(a);
        std::vector<float> b_half = rounded(b);
        void * const a_data = a->data;
        void * const b_data = b->data;

        a->data = a_half.data();
        b->data = b_half.data();
        CHECK(ggml_backend_graph_compute(g_tiny_device.cpu, &one) == GGML_STATUS_SUCCESS);
        a->data = a_data;
        b->data = b_data;

        g_n_products++;
    }
}

struct shape {
    int n, d, n_head, n_head_kv;
};

static std::vector<float> normal(size_t n, uint32_t seed, float scale) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> dist(0.0f, scale);

    std::vector<float> res(n);
    for (auto & x : res) {
        x = dist(rng);
    }
    return res;
}

static std::vector<float> score(const char * device, const char * policy, const char * novelty, const shape & s) {
    const int n_q = 64;

    auto k   = normal((size_t) s.n_head_kv*s.n*s.d, 1, 2.0f);
    auto v   = normal((size_t) s.n_head_kv*s.n*s.d, 2, 1.0f);
    auto q   = normal((size_t) n_q*s.n_head*s.d,    3, 2.0f);
    auto mu  = normal((size_t) s.n_head*s.d,        4, 1.0f);
    auto cov = std::vector<float>((size_t) s.n_head*s.d*s.d, 0.0f);

    for (size_t i = 0; i < v.size(); ++i) {
        const int j = i % s.d;
        k[i] += j == 3 || j == s.d/2 ? 30.0f : 0.0f;              // keys have a few large channels
        v[i] = v[i]*std::pow(10.0f, -2.0f*j/s.d) + (j == 1)*4.0f; // values have much in common, and large directions and small ones
    }
    for (int h = 0; h < s.n_head; ++h) {
        for (int i = 0; i < s.d; ++i) {
            cov[((size_t) h*s.d + i)*s.d + i] = 0.1f + i % 7;
        }
    }

    capkv_score_input in = {};
    in.n          = s.n;
    in.n_head     = s.n_head;
    in.n_head_kv  = s.n_head_kv;
    in.d_k        = s.d;
    in.d_v        = s.d;
    in.k          = k.data();
    in.v          = v.data();
    in.q          = q.data();
    in.q_mean     = mu.data();
    in.q_cov      = cov.data();
    in.n_q        = n_q;
    in.next_pos   = s.n + 500;
    in.rope_type  = LLAMA_ROPE_TYPE_NEOX;
    in.n_rot      = s.d;
    in.freq_base  = 500000.0f;

    capkv_params params = capkv_default_params();
    CHECK(capkv_params_set(&params, "policy", policy));
    CHECK(capkv_params_set(&params, "novelty", novelty));

    std::vector<float> res((size_t) s.n_head_kv*s.n);
    CHECK(capkv_score(device, &params, &in, res.data()));
    return res;
}

// share of the better half of the entries of each head that is in the better half of the other scores too
static double agreement(const std::vector<float> & a, const std::vector<float> & b, int n) {
    size_t n_same = 0, n_all = 0;
    for (size_t h = 0; h < a.size(); h += n) {
        auto better = [&](const std::vector<float> & x) {
            std::vector<int> idx(n);
            std::iota(idx.begin(), idx.end(), 0);
            std::sort(idx.begin(), idx.end(), [&](int i, int j) { return x[h + i] > x[h + j]; });
            idx.resize(n/2);
            std::sort(idx.begin(), idx.end());
            return idx;
        };
        const auto x = better(a), y = better(b);
        std::vector<int> both;
        std::set_intersection(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(both));
        n_same += both.size();
        n_all  += n/2;
    }
    return (double) n_same/n_all;
}

int main() {
    tiny_quiet();
    tiny_device_register();
    g_tiny_device.computes = false;
    g_tiny_device.looks_at = compute;

    const std::pair<const char *, float (*)(float)> kinds[] = { { "TF32", to_tf32 }, { "half", to_half } };

    // without novelty capkv's score is leverage alone
    const std::pair<const char *, const char *> policies[] = {
        { "capkv", "1" }, { "capkv", "0" }, { "snapkv", "1" }, { "tova", "1" }, { "h2o", "1" }, { "expected", "1" }, { "keydiff", "1" }, { "knorm", "1" },
    };

    for (const auto & [kind, round] : kinds) {
        g_round = round;

        for (const shape & s : { shape { 600, 64, 9, 3 }, shape { 1536, 128, 8, 2 } }) {
            for (const auto & [policy, novelty] : policies) {
                g_n_products = 0;

                const auto want = score("CPU",   policy, novelty, s);
                const auto got  = score("TINY0", policy, novelty, s);

                const double err  = tiny_nmse(got, want);
                const double same = agreement(got, want, s.n);
                printf("%s %-8s novelty %s, d = %3d, n = %4d: nmse %.1e, %.1f%% of the better half, %d products\n", kind, policy, novelty, s.d, s.n, err, 100*same, g_n_products);
                CHECK(err < 5e-4 && same >= 0.97);
            }
        }
    }
}
