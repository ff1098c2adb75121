// run a policy's graph on given data: what tests compare with the references, on every device

#include "capkv-graph.h"
#include "policies/pieces.h"

#include "kernels/cpu-target.h"

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
    if (in.n_tile < 0) {
        throw capkv_error("capkv_score: n_tile = " + std::to_string(in.n_tile) + ": allowed is at least 0");
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

// entries that a graph takes at once
static int64_t capkv_input_tile(const capkv_score_input & in) {
    return in.n_tile > 0 ? in.n_tile : in.n;
}

// nodes of a graph at most
static size_t capkv_n_score_nodes(const capkv_score_input & in) {
    return 512*((in.n + capkv_input_tile(in) - 1)/capkv_input_tile(in));
}

// the graph that scores heads [h0, h0 + n_heads) of the input, and its result
struct capkv_score_group {
    const capkv_graph_meta meta;

    capkv_inputs  inputs;
    ggml_cgraph * gf;
    ggml_tensor * score; // F32 [n, n_heads]

    capkv_score_group(const capkv_policy & policy, const capkv_params & params, const capkv_score_input & in, bool on_host, int64_t h0, int64_t n_heads);
};

capkv_score_group::capkv_score_group(
        const capkv_policy & policy, const capkv_params & params, const capkv_score_input & in, bool on_host, int64_t h0, int64_t n_heads) :
    meta(capkv_n_score_nodes(in)) {

    const int64_t r = in.n_head/in.n_head_kv;

    const capkv_rope rope = capkv_input_rope(in);

    capkv_score_ctx sc(meta.get(), inputs, params);

    sc.n           = in.n;
    sc.n_head_kv   = n_heads;
    sc.n_head      = r*n_heads;
    sc.d_k         = in.d_k;
    sc.d_v         = in.d_v;
    sc.n_tile      = capkv_input_tile(in);
    sc.on_host     = on_host;
    sc.rope        = &rope;
    sc.k_rot       = [](ggml_tensor * t) { return t; };
    sc.kq_scale    = in.kq_scale != 0.0f ? in.kq_scale : 1.0f/sqrtf((float) in.d_k);
    sc.next_pos    = in.next_pos;
    sc.n_evictions = in.n_evictions;

    for (int64_t h = h0; h < h0 + n_heads; ++h) {
        sc.heads.push_back({ in.il, h });
    }

    // n_rows rows of the input: [d, n_rows]
    auto rows = [&](const float * data, int64_t d, int64_t n_rows) {
        return inputs.add_f32(sc.ctx, std::vector<float>(data, data + d*n_rows), d, n_rows);
    };

    auto entries = [&](const float * data, int64_t d) -> capkv_entries {
        ggml_tensor * all = ggml_reshape_3d(sc.ctx, rows(data + h0*in.n*d, d, n_heads*in.n), d, in.n, n_heads);
        return [ctx = sc.ctx, all](int64_t i0, int64_t n) { return capkv_build_part(ctx, all, 1, i0, n); };
    };
    sc.k = entries(in.k, in.d_k);
    sc.v = entries(in.v, in.d_v);

    sc.positions = [&]() {
        std::vector<int32_t> res;
        for (int64_t i = h0*in.n; i < (h0 + n_heads)*in.n; ++i) {
            res.push_back(in.pos ? in.pos[i] : in.next_pos - in.n + (int32_t) (i % in.n));
        }
        return res;
    };
    sc.rope_positions = sc.positions;

    if (in.q_mean && policy.observe.mean) {
        sc.q_mean = rows(in.q_mean + h0*r*in.d_k, in.d_k, sc.n_head);
    }
    if (in.q_cov && policy.observe.cov) {
        ggml_tensor * t = rows(in.q_cov + h0*r*in.d_k*in.d_k, in.d_k, in.d_k*sc.n_head);
        sc.q_cov = ggml_reshape_3d(sc.ctx, t, in.d_k, in.d_k, sc.n_head);
    }
    if (in.q && policy.observe.n_rows() > 0) {
        std::vector<float> data;
        for (int32_t j = 0; j < in.n_q; ++j) {
            const float * beg = in.q + ((int64_t) j*in.n_head + h0*r)*in.d_k;
            data.insert(data.end(), beg, beg + sc.n_head*in.d_k);
        }

        auto & queries = policy.observe.n_res > 0 ? sc.q_res : sc.q_last;
        queries.q = ggml_reshape_3d(sc.ctx, rows(data.data(), in.d_k, sc.n_head*in.n_q), in.d_k, sc.n_head, in.n_q);
        for (int32_t j = 0; j < in.n_q; ++j) {
            queries.pos.push_back(in.q_pos ? in.q_pos[j] : in.next_pos - in.n_q + j);
        }
    }

    score = policy.score(sc).score;
    ggml_set_output(score);

    gf = ggml_new_graph_custom(sc.ctx, capkv_n_score_nodes(in), false);
    ggml_build_forward_expand(gf, score);
}

static void capkv_score_run(ggml_backend_t backend, ggml_backend_t backend_cpu, const capkv_params & params, const capkv_score_input & in, float * scores) {
    auto build = [&](int64_t h0, int64_t n_heads) {
        const bool on_host = backend == backend_cpu && !in.graph_only;

        return std::make_unique<capkv_score_group>(*capkv_policy_find(params.policy), params, in, on_host, h0, n_heads);
    };

    const int64_t n_group = capkv_n_together(in.n_head_kv, backend == backend_cpu ? capkv_work.host : capkv_work.device, [&](int64_t n_heads) {
        return capkv_work_size(build(0, n_heads)->gf, ggml_backend_get_default_buffer_type(backend));
    });

    std::vector<ggml_backend_t> backends = { backend };
    if (backend_cpu != backend) {
        backends.push_back(backend_cpu);
    }

    ggml_backend_sched_ptr sched { ggml_backend_sched_new(backends.data(), nullptr, backends.size(), 2*capkv_n_score_nodes(in), false, false) };

    for (int64_t h0 = 0; h0 < in.n_head_kv; h0 += n_group) {
        const auto group = build(h0, std::min(n_group, in.n_head_kv - h0));

        // everything that can run on the device does, but for functions of this process, which the RPC backend says it has; a view stays
        // where its data is, so that an input on the host is copied
        for (int i = 0; i < ggml_graph_n_nodes(group->gf); ++i) {
            ggml_tensor * node = ggml_graph_node(group->gf, i);
            if (node->op == GGML_OP_CUSTOM) {
                ggml_backend_sched_set_tensor_backend(sched.get(), node, backend_cpu);
            } else if (!capkv_is_view(node) && ggml_backend_supports_op(backend, node)) {
                ggml_backend_sched_set_tensor_backend(sched.get(), node, backend);
            }
        }

        if (!ggml_backend_sched_alloc_graph(sched.get(), group->gf)) {
            throw capkv_error("capkv_score: out of memory");
        }
        group->inputs.set();
        if (ggml_backend_sched_graph_compute(sched.get(), group->gf) != GGML_STATUS_SUCCESS) {
            throw capkv_error("capkv_score: the computation failed");
        }

        ggml_backend_tensor_get(group->score, scores + h0*in.n, 0, ggml_nbytes(group->score));
        ggml_backend_sched_reset(sched.get());
    }
}

size_t capkv_n_devices(void) {
    return ggml_backend_dev_count();
}

const char * capkv_get_device(size_t i) {
    return i < capkv_n_devices() ? ggml_backend_dev_name(ggml_backend_dev_get(i)) : nullptr;
}

size_t capkv_n_cpu_targets(void) {
    size_t n = 0;
    while (capkv_cpu_target_at(n)) {
        n++;
    }
    return n;
}

const char * capkv_get_cpu_target(size_t i) {
    const auto * target = capkv_cpu_target_at(i);

    return target ? target->name : nullptr;
}

bool capkv_set_cpu_target(const char * name) {
    return capkv_guard(false, [&] {
        if (!name) {
            capkv_cpu_target_set(nullptr);
            return true;
        }

        std::string names;
        for (size_t i = 0; const auto * target = capkv_cpu_target_at(i); ++i) {
            if (strcmp(target->name, name) == 0) {
                capkv_cpu_target_set(target);
                return true;
            }
            names += (i ? ", " : "") + std::string(target->name);
        }
        throw capkv_error("capkv_set_cpu_target: name = " + std::string(name) + ": allowed is one of " + names);
    });
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
