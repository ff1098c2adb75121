// the work memory of an eviction: what is gone through in parts, heads and entries, gives the same as in one piece, a long cache takes no
// more of it than a bound, and evictions take no more than was reserved

#include "tiny-device.h"

#include "capkv-graph.h"

#include <algorithm>

static const char * const POLICIES[] = { "capkv", "capkv-ref", "leverage", "snapkv", "tova", "h2o", "expected", "keydiff", "knorm", "streaming", "random" };

static llama_context_ptr open(llama_model * model, const char * policy, const char * budget, const char * reindex, ggml_type type, uint32_t n_ctx = 0) {
    capkv_params kv = capkv_default_params();
    CHECK(capkv_params_set(&kv, "budget",  budget));
    CHECK(capkv_params_set(&kv, "policy",  policy));
    CHECK(capkv_params_set(&kv, "reindex", reindex));
    capkv_set_next_params(&kv);

    llama_context_params params = tiny_context_params();
    params.n_ctx  = n_ctx;
    params.type_k = type;
    params.type_v = type;

    llama_context_ptr res(llama_init_from_model(model, params));
    CHECK(res);
    return res;
}

static uint64_t work_of(llama_context * ctx) {
    capkv_stats st;
    CHECK(capkv_get_stats(ctx, 0, &st));
    return st.bytes_work;
}

struct result {
    std::vector<std::vector<int32_t>> pos;   // of each head
    std::vector<float>                share; // of the capacity, of each layer
    uint64_t                          bytes_work;
};

static result run(llama_model * model, const char * policy, const char * reindex, ggml_type type) {
    const auto ctx = open(model, policy, "64", reindex, type);
    CHECK(tiny_read(ctx.get(), tiny_text(700)) == 0);

    result res;
    for (int32_t il = 0; il < 6; ++il) {
        for (int32_t head = 0; head < capkv_n_head_kv(ctx.get(), il); ++head) {
            std::vector<int32_t> pos(1024);
            pos.resize(capkv_get_positions(ctx.get(), 0, il, head, pos.data(), pos.size()));
            res.pos.push_back(pos);
        }
    }
    res.share.resize(6);
    res.share.resize(capkv_get_capacity(ctx.get(), 0, res.share.data(), res.share.size()));
    res.bytes_work = work_of(ctx.get());
    return res;
}

static void check_parts(const char * arch, int32_t n_gpu_layers, const std::vector<const char *> & policies) {
    const auto model = tiny_model(arch, 1, n_gpu_layers, 32);

    for (const char * policy : policies) {
        for (const bool reindex : { false, true }) {
            const ggml_type type = reindex ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;

            const auto whole = run(model.get(), policy, reindex ? "always" : "auto", type);

            const auto limits = capkv_work;
            capkv_work = { whole.bytes_work/8, whole.bytes_work/8, 1 };
            const auto parts = run(model.get(), policy, reindex ? "always" : "auto", type);
            capkv_work = limits;

            // not all of the work memory can be divided: what is returned, the d x d matrices of a head
            CHECK(parts.bytes_work < whole.bytes_work);
            CHECK(strcmp(policy, "capkv") != 0 || parts.bytes_work < whole.bytes_work*3/4);

            size_t n_same = 0, n_all = 0;
            CHECK(parts.pos.size() == whole.pos.size() && parts.share.size() == whole.share.size());
            for (size_t i = 0; i < whole.pos.size(); ++i) {
                n_all  += whole.pos[i].size();
                n_same += std::count_if(whole.pos[i].begin(), whole.pos[i].end(), [&](int32_t p) {
                    return std::binary_search(parts.pos[i].begin(), parts.pos[i].end(), p);
                });
            }
            CHECK(n_same >= 0.97*n_all); // a sum of parts rounds differently

            for (size_t i = 0; i < whole.share.size(); ++i) {
                CHECK(std::fabs(parts.share[i] - whole.share[i]) < 0.01f);
            }
        }
    }
}

// heads of 128, four query heads for each KV head, as in models of 8B
static void check_bound(int32_t n_gpu_layers) {
    const auto model = tiny_model("llama", 1, n_gpu_layers, 128, 8);

    for (const char * policy : POLICIES) {
        const auto ctx = open(model.get(), policy, "131072", "auto", GGML_TYPE_Q8_0, /*n_ctx =*/ 1 << 20);
        CHECK(tiny_read(ctx.get(), tiny_text(32)) == 0);

        capkv_stats st;
        CHECK(capkv_get_stats(ctx.get(), 0, &st));
        CHECK(st.n_cells > 131072);

        fprintf(stderr, "%s, budget 131072, %s: %.0f MiB of work memory\n", policy, n_gpu_layers ? "device" : "host", work_of(ctx.get())/1048576.0);
        CHECK(work_of(ctx.get()) < 256u << 20);
    }
}

// batches of any length, so that evictions are of any number of entries
static void check_reserved(int32_t n_gpu_layers, uint32_t n_embd_head) {
    const auto model = tiny_model("llama", 1, n_gpu_layers, n_embd_head);

    for (const char * policy : POLICIES) {
        const auto ctx = open(model.get(), policy, "64", "always", GGML_TYPE_F16);
        CHECK(tiny_read(ctx.get(), tiny_text(1)) == 0);
        const uint64_t reserved = work_of(ctx.get());

        std::mt19937 rng(1);
        for (int i = 0; i < 80; ++i) {
            CHECK(tiny_read(ctx.get(), tiny_text(1 + rng() % 32, i)) == 0);
        }
        CHECK(tiny_stats(ctx.get()).n_evictions >= 5);

        CHECK(work_of(ctx.get()) == reserved);
    }
}

int main() {
    tiny_quiet();
    tiny_device_register();

    for (const uint32_t n_embd_head : { 16, 32, 64 }) {
        check_reserved(0,  n_embd_head);
        check_reserved(99, n_embd_head);
    }

    check_parts("llama",  0,  { std::begin(POLICIES), std::end(POLICIES) });
    check_parts("gemma3", 0,  { "capkv" });
    check_parts("llama",  99, { "capkv", "snapkv", "expected" });
    check_parts("gemma3", 99, { "capkv" });

    check_bound(0);
    check_bound(99);
}
