// run a policy's graph on given data: what tests compare with the references, on every device

#include "capkv-graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

static void capkv_check_input(const capkv_score_input & in) {
    auto positive = [](const char * name, int32_t val) {
        if (val <= 0) {
            throw capkv_error("capkv_score: " + std::string(name) + " = " + std::to_string(val) + ": allowed is at least 1");
        }
    };
    positive("n",         in.n);
    positive("n_head",    in.n_head);
    positive("n_head_kv", in.n_head_kv);
    positive("d_k",       in.d_k);
    positive("d_v",       in.d_v);

    if (in.n_head % in.n_head_kv != 0) {
        throw capkv_error("capkv_score: n_head = " + std::to_string(in.n_head) + ": allowed is a multiple of n_head_kv = " + std::to_string(in.n_head_kv));
    }
    if (!in.k || !in.v) {
        throw capkv_error("capkv_score: k and v are needed");
    }
    if (in.q && in.n_q <= 0) {
        throw capkv_error("capkv_score: n_q = " + std::to_string(in.n_q) + ": allowed is at least 1");
    }
    if (in.rope_type != LLAMA_ROPE_TYPE_NONE && in.rope_type != LLAMA_ROPE_TYPE_NORM && in.rope_type != LLAMA_ROPE_TYPE_NEOX) {
        throw capkv_error("capkv_score: rope_type = " + std::to_string(in.rope_type) + ": allowed is -1 (none), 0 (norm) or 2 (neox)");
    }
    if (in.rope_type >= 0 && (in.n_rot <= 0 || in.n_rot > in.d_k || in.n_rot % 2 != 0)) {
        throw capkv_error("capkv_score: n_rot = " + std::to_string(in.n_rot) + ": allowed is an even number up to d_k = " + std::to_string(in.d_k));
    }
}

static capkv_rope capkv_input_rope(const capkv_score_input & in) {
    capkv_rope rope;

    rope.on = in.rope_type >= 0;

    const float one  = 1.0f;
    const float fast = 32.0f;

    rope.params[1] = in.n_rot;
    rope.params[2] = in.rope_type;
    rope.params[4] = 8192;
    memcpy(rope.params +  5, &in.freq_base, sizeof(float));
    memcpy(rope.params +  6, &one,          sizeof(float)); // freq_scale
    memcpy(rope.params +  8, &one,          sizeof(float)); // attn_factor
    memcpy(rope.params +  9, &fast,         sizeof(float)); // beta_fast
    memcpy(rope.params + 10, &one,          sizeof(float)); // beta_slow

    return rope;
}

// ggml's own default is four, however few cores there are
static void capkv_set_n_threads(ggml_backend_t backend) {
    auto * reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    auto * fn  = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (fn) {
        fn(backend, std::max(1u, std::thread::hardware_concurrency()));
    }
}

static bool capkv_is_view(const ggml_tensor * node) {
    return node->op == GGML_OP_RESHAPE || node->op == GGML_OP_VIEW || node->op == GGML_OP_PERMUTE || node->op == GGML_OP_TRANSPOSE;
}

static void capkv_score_run(ggml_backend_t backend, ggml_backend_t backend_cpu, const capkv_params & params, const capkv_score_input & in, float * scores) {
    const auto & policy = *capkv_policy_find(params.policy);

    const int64_t r  = in.n_head/in.n_head_kv;
    const int64_t ng = capkv_heads_per_group(policy, in.n, in.n_head, in.n_head_kv, in.d_k, in.d_v);

    const capkv_rope rope = capkv_input_rope(in);

    std::vector<ggml_backend_t> backends = { backend };
    if (backend_cpu != backend) {
        backends.push_back(backend_cpu);
    }

    const size_t n_nodes = 1024;

    ggml_backend_sched_ptr sched { ggml_backend_sched_new(backends.data(), nullptr, backends.size(), n_nodes, false, false) };

    for (int64_t h0 = 0; h0 < in.n_head_kv; h0 += ng) {
        const capkv_graph_meta meta(n_nodes);
        capkv_inputs inputs;

        capkv_score_ctx sc(meta.get(), inputs, params);

        sc.n           = in.n;
        sc.n_head_kv   = std::min(ng, in.n_head_kv - h0);
        sc.n_head      = r*sc.n_head_kv;
        sc.d_k         = in.d_k;
        sc.d_v         = in.d_v;
        sc.on_host     = backend == backend_cpu && !in.graph_only;
        sc.rope        = &rope;
        sc.k_rot       = [](ggml_tensor * t) { return t; };
        sc.kq_scale    = in.kq_scale != 0.0f ? in.kq_scale : 1.0f/sqrtf((float) in.d_k);
        sc.next_pos    = in.next_pos;
        sc.il          = in.il;
        sc.head_kv0    = h0;
        sc.n_evictions = in.n_evictions;

        auto heads = [&](const float * data, int64_t d) {
            const float * beg = data + h0*in.n*d;
            ggml_tensor * t = inputs.add_f32(sc.ctx, std::vector<float>(beg, beg + sc.n_head_kv*in.n*d), d, sc.n_head_kv*in.n);
            return ggml_reshape_3d(sc.ctx, t, d, in.n, sc.n_head_kv);
        };
        sc.k = heads(in.k, in.d_k);
        sc.v = heads(in.v, in.d_v);

        sc.positions = [&, h0, n_heads = sc.n_head_kv]() {
            std::vector<int32_t> res;
            for (int64_t i = h0*in.n; i < (h0 + n_heads)*in.n; ++i) {
                res.push_back(in.pos ? in.pos[i] : in.next_pos - in.n + (int32_t) (i % in.n));
            }
            return res;
        };

        if (in.q_mean && policy.observe.mean) {
            const float * beg = in.q_mean + h0*r*in.d_k;
            sc.q_mean = inputs.add_f32(sc.ctx, std::vector<float>(beg, beg + sc.n_head*in.d_k), in.d_k, sc.n_head);
        }
        if (in.q_cov && policy.observe.cov) {
            const float * beg = in.q_cov + h0*r*in.d_k*in.d_k;
            ggml_tensor * t = inputs.add_f32(sc.ctx, std::vector<float>(beg, beg + sc.n_head*in.d_k*in.d_k), in.d_k, in.d_k*sc.n_head);
            sc.q_cov = ggml_reshape_3d(sc.ctx, t, in.d_k, in.d_k, sc.n_head);
        }
        if (in.q && policy.observe.n_rows() > 0) {
            std::vector<float> data;
            for (int32_t j = 0; j < in.n_q; ++j) {
                const float * beg = in.q + ((int64_t) j*in.n_head + h0*r)*in.d_k;
                data.insert(data.end(), beg, beg + sc.n_head*in.d_k);
            }
            ggml_tensor * t = inputs.add_f32(sc.ctx, data, in.d_k, sc.n_head*in.n_q);

            auto & queries = policy.observe.n_res > 0 ? sc.q_res : sc.q_last;
            queries.q = ggml_reshape_3d(sc.ctx, t, in.d_k, sc.n_head, in.n_q);
            for (int32_t j = 0; j < in.n_q; ++j) {
                queries.pos.push_back(in.q_pos ? in.q_pos[j] : in.next_pos - in.n_q + j);
            }
        }

        ggml_tensor * score = policy.score(sc);
        ggml_set_output(score);

        ggml_cgraph * gf = ggml_new_graph_custom(sc.ctx, n_nodes/2, false);
        ggml_build_forward_expand(gf, score);

        // everything that can run on the device does; a view stays where its data is, so that an input on the host is copied
        for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
            ggml_tensor * node = ggml_graph_node(gf, i);
            if (!capkv_is_view(node) && ggml_backend_supports_op(backend, node)) {
                ggml_backend_sched_set_tensor_backend(sched.get(), node, backend);
            }
        }

        if (!ggml_backend_sched_alloc_graph(sched.get(), gf)) {
            throw capkv_error("capkv_score: out of memory");
        }
        inputs.set();
        if (ggml_backend_sched_graph_compute(sched.get(), gf) != GGML_STATUS_SUCCESS) {
            throw capkv_error("capkv_score: the computation failed");
        }

        ggml_backend_tensor_get(score, scores + h0*in.n, 0, sc.n_head_kv*in.n*sizeof(float));
        ggml_backend_sched_reset(sched.get());
    }
}

size_t capkv_n_devices(void) {
    return ggml_backend_dev_count();
}

const char * capkv_get_device(size_t i) {
    return i < capkv_n_devices() ? ggml_backend_dev_name(ggml_backend_dev_get(i)) : nullptr;
}

bool capkv_score(const char * device, const capkv_params * params, const capkv_score_input * input, float * scores) {
    return capkv_guard(false, [&] {
        if (!device || !params || !input || !scores) {
            throw capkv_error("capkv_score: NULL is not allowed");
        }
        capkv_params_check_or_throw(*params);
        capkv_check_input(*input);

        ggml_backend_dev_t dev = ggml_backend_dev_by_name(device);
        if (!dev) {
            std::string names;
            for (size_t i = 0; i < capkv_n_devices(); ++i) {
                names += (i ? ", " : "") + std::string(capkv_get_device(i));
            }
            throw capkv_error("capkv_score: device = " + std::string(device) + ": allowed is one of " + names);
        }

        ggml_backend_ptr backend { ggml_backend_dev_init(dev, nullptr) };
        ggml_backend_ptr cpu;
        if (ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            cpu.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
        }
        ggml_backend_t backend_cpu = cpu ? cpu.get() : backend.get();

        if (!backend || !backend_cpu) {
            throw capkv_error("capkv_score: the device " + std::string(device) + " cannot be started");
        }

        capkv_set_n_threads(backend_cpu);

        capkv_score_run(backend.get(), backend_cpu, *params, *input, scores);

        return true;
    });
}
