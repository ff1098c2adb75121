// the work memory of evictions: what is scored together, which layers a graph has, and the reserve

#include "capkv-evict.h"
#include "capkv-graph.h"

#include <algorithm>
#include <cstring>
#include <numeric>

// tensors of a graph of several layers at most: a scheduler takes 20 kB of address space for each. Between two graphs a device is
// waited for
static constexpr size_t CAPKV_GRAPH_SIZE        = 1024;
static constexpr size_t CAPKV_GRAPH_SIZE_DEVICE = 16384;

// bytes of the results that a graph of several layers holds to its end, at most
static constexpr size_t CAPKV_KEPT_MAX = 32*1024*1024;

capkv_work_max capkv_work;

int64_t capkv_n_together(int64_t n, size_t work_max, const std::function<size_t(int64_t)> & work) {
    if (n == 1 || work(n) <= work_max) {
        return n;
    }

    int64_t fits = 1;
    for (int64_t over = n; over - fits > 1;) {
        const int64_t mid = (fits + over)/2;
        (work(mid) <= work_max ? fits : over) = mid;
    }

    // groups of about the same size
    const int64_t n_groups = (n + fits - 1)/fits;
    return (n + n_groups - 1)/n_groups;
}

int64_t capkv_n_tile(int64_t n, size_t work_max, const std::function<size_t(int64_t)> & work) {
    size_t size = work(n);

    while (size > work_max && n > 1) {
        const size_t size_half = work((n + 1)/2);
        if (size_half > size - size/8) {
            break;
        }
        n    = (n + 1)/2;
        size = size_half;
    }
    return n;
}

size_t capkv_work_size(ggml_cgraph * gf, ggml_backend_buffer_type_t buft) {
    const ggml_gallocr_ptr galloc { ggml_gallocr_new(buft) };

    size_t res = 0;
    ggml_gallocr_reserve_n_size(galloc.get(), gf, nullptr, nullptr, &res);
    return res;
}

bool capkv_evictor::are_alike(const capkv_layer & a, const capkv_layer & b) const {
    const auto & x = observer.of(a);
    const auto & y = observer.of(b);

    auto data = [](const ggml_tensor * t) { return t ? t->data : nullptr; };

    return a.n_head == b.n_head && a.n_head_kv == b.n_head_kv && a.d_k == b.d_k && a.d_v == b.d_v &&
        ggml_backend_buffer_get_type(kv.layers[a.ikv].k->buffer) == ggml_backend_buffer_get_type(kv.layers[b.ikv].k->buffer) &&
        x.kq_scale == y.kq_scale && x.rope.on == y.rope.on && memcmp(x.rope.params, y.rope.params, sizeof(x.rope.params)) == 0 &&
        data(x.rope.factors) == data(y.rope.factors) && data(x.rope.weight) == data(y.rope.weight);
}

void capkv_evictor::find_groups(const plan & p) {
    auto buft = [&](const capkv_layer & l) { return ggml_backend_buffer_get_type(kv.layers[l.ikv].k->buffer); };

    auto work = [&](const span & part) {
        const capkv_graph_meta meta(n_nodes_scores(part));
        capkv_inputs inputs(/*reuse =*/ false);
        std::vector<score_out> outs;

        return capkv_work_size(build_scores(meta.get(), inputs, p, part, outs), buft(layers[part.beg]));
    };
    auto work_compact = [&](const span & part) {
        const capkv_graph_meta meta(n_nodes_compact(part));
        capkv_inputs inputs(/*reuse =*/ false);
        std::vector<ggml_tensor *> sums;

        return capkv_work_size(build_compact(meta.get(), inputs, p, part, sums), buft(layers[part.beg]));
    };

    for (size_t i = 0; i < layers.size();) {
        const auto & l    = layers[i];
        const bool   host = on_host(l);

        const size_t work_max = host ? capkv_work.host : capkv_work.device;

        n_merge[i] = 1;
        n_tile [i] = kv.get_size();
        n_group[i] = capkv_n_together(l.n_head_kv, work_max, [&](int64_t n) { n_group[i] = n; return work({ i, i + 1 }); });
        if (n_group[i] == 1) {
            n_tile[i] = capkv_n_tile(n_tile[i], work_max, [&](int64_t n) { n_tile[i] = n; return work({ i, i + 1 }); });
        }
        n_group_compact[i] = capkv_n_together(l.n_head_kv, work_max, [&](int64_t n) { n_group_compact[i] = n; return work_compact({ i, i + 1 }); });

        size_t n_alike = 1;
        while (i + n_alike < layers.size() && are_alike(l, layers[i + n_alike])) {
            n_group        [i + n_alike] = n_group[i];
            n_group_compact[i + n_alike] = n_group_compact[i];
            n_tile         [i + n_alike] = n_tile[i];
            n_merge        [i + n_alike] = 1;
            n_alike++;
        }

        // a device computes for several layers in the time of one
        if (!host && n_group[i] == l.n_head_kv) {
            const int64_t n_merged = capkv_n_together(n_alike, capkv_work.layers, [&](int64_t n) { n_merge[i] = n; return work({ i, i + n }); });
            for (size_t j = 0; j < n_alike; j += n_merged) {
                n_merge[i + j] = std::min<size_t>(n_merged, n_alike - j);
            }
        }

        i += n_alike;
    }
}

bool capkv_evictor::reserve(llama_context * lctx) {
    const uint32_t n = kv.get_size();

    reserved = false; // a second try counts with all that may be observed, as the first did

    plan p = make_plan(0, n);
    p.parts = { 0, n, 0, can_reindex };
    p.order.resize(n);
    std::iota(p.order.begin(), p.order.end(), 0);

    // only the shapes count here, but a graph asks for the position of the last cell: an empty one gets one for the time being
    struct last_cell {
        llama_kv_cells & cells;
        const uint32_t   i;
        const bool       empty = cells.is_empty(i);

        last_cell(llama_kv_cells & cells, uint32_t i) : cells(cells), i(i) { if (empty) { cells.pos_set(i, i); } }
        ~last_cell() { if (empty) { cells.rm(i); } }
    } last(kv.v_cells[0], n - 1);

    find_groups(p);

    auto scores = [&](const span & part, auto && f, bool reuse = false) {
        const capkv_graph_meta meta(n_nodes_scores(part));
        capkv_inputs inputs(reuse);
        std::vector<score_out> outs;
        return f(build_scores(meta.get(), inputs, p, part, outs), inputs);
    };
    auto compaction = [&](const span & part, auto && f) {
        const capkv_graph_meta meta(n_nodes_compact(part));
        capkv_inputs inputs(/*reuse =*/ false);
        std::vector<ggml_tensor *> sums;
        return f(build_compact(meta.get(), inputs, p, part, sums), inputs);
    };
    auto count = [](ggml_cgraph * gf, const capkv_inputs &) { return capkv_sched::n_tensors(gf); };

    // as many layers in a graph as fit, at least one
    size_t size_max = 0;
    auto spans_of = [&](auto && build) {
        std::vector<span> res;
        size_t size = 0;
        size_t kept = 0;
        for (size_t i = 0; i < layers.size(); i += n_merge[i]) {
            const auto & l = layers[i];

            const size_t size_group = build(span { i, i + n_merge[i] }, count);
            const size_t kept_group = n_merge[i]*l.n_head_kv*(2*n + l.d_v*l.d_v)*sizeof(float); // scores, weights, sums

            if (res.empty() || size + size_group > (on_host(l) ? CAPKV_GRAPH_SIZE : CAPKV_GRAPH_SIZE_DEVICE) || kept + kept_group > CAPKV_KEPT_MAX) {
                res.push_back({ i, i });
                size = 0;
                kept = 0;
            }
            res.back().end = i + n_merge[i];
            size += size_group;
            kept += kept_group;
            size_max = std::max(size_max, size);
        }
        return res;
    };
    spans_scores  = spans_of(scores);
    spans_compact = spans_of(compaction);

    // how many nodes and how much memory a sum by halves takes depends on n modulo 64, and where tensors begin on n modulo 8: reserve for
    // the worst of these sizes. In a short cache, whose tensors are as small as the gaps between them, it depends on every bit
    auto each_n = [&](auto && f) {
        for (uint32_t n_less = 64; n_less-- > 0;) { // all of them last, as it was
            if (n > 512 && n_less > 8 && n_less % 8 != 0) {
                continue;
            }
            if (n_less < n) {
                p.order.resize(n - n_less);
                std::iota(p.order.begin(), p.order.end(), n_less);
                for (const auto & part : spans_scores) {
                    f(part);
                }
            }
        }
    };
    each_n([&](const span & part) { size_max = std::max(size_max, scores(part, count)); });

    reserve_windows([&](ggml_cgraph * gf, const capkv_inputs & inputs) { size_max = std::max(size_max, count(gf, inputs)); return true; });

    sched.make(lctx, size_max);

    auto reserve_one = [&](ggml_cgraph * gf, const capkv_inputs & inputs) { return sched.reserve(gf, inputs); };

    bool res = true;

    // smaller tensors may be laid out in another way, and take more
    for (const uint32_t n_target : { n, std::min(n, params.n_budget) }) {
        for (int reindex = 0; reindex <= (int) can_reindex; ++reindex) {
            p.parts = { 0, n_target, 0, reindex != 0 };
            for (const auto & part : spans_compact) {
                res = res && compaction(part, reserve_one);
            }
        }
    }

    // an input that is equal to another is left out, so there are fewer of them than without `reuse`. The graph is laid out in another way
    // then, and may take more
    each_n([&](const span & part) { res = res && scores(part, reserve_one, /*reuse =*/ true); });
    for (const auto & part : spans_scores) {
        res = res && scores(part, reserve_one);
    }

    res = res && reserve_windows(reserve_one);

    if (!res) {
        sched.free();
    }
    return res;
}
