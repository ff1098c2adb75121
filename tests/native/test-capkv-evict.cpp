// an eviction and its context: the threads, the clock, what it waits for, and what a failure leaves behind

#include "tiny-calls.h"

#include "ggml-cpu.h"

#include <functional>

static std::function<ggml_status(int)> g_compute_status; // the status to return for the i-th graph of an eviction
static int                             g_n_compute = 0;

extern "C" ggml_status ggml_backend_sched_graph_compute_async(ggml_backend_sched_t sched, ggml_cgraph * graph) {
    REAL(ggml_backend_sched_graph_compute_async);

    const auto res = ggml_backend_sched_graph_compute_async_real(sched, graph);
    if (!g_scheds.count(sched)) {
        return res;
    }

    const int  i      = g_n_compute++;
    const auto status = g_compute_status ? g_compute_status(i) : GGML_STATUS_SUCCESS;

    return status == GGML_STATUS_SUCCESS ? res : status;
}

// a clock that each graph moves on by 1 s
static int64_t g_now_us = 1;

extern "C" int64_t ggml_time_us(void) {
    return g_now_us;
}

struct computed {
    ggml_threadpool * pool;
    int               n_threads;
};

static std::vector<computed> g_computed;

extern "C" ggml_status ggml_graph_compute(ggml_cgraph * graph, ggml_cplan * plan) {
    REAL(ggml_graph_compute);

    g_now_us += 1000*1000;
    g_computed.push_back({ plan->threadpool, plan->n_threads });

    return ggml_graph_compute_real(graph, plan);
}

static std::string g_order; // in the order of the calls: s = a scheduler is waited for, c = a tensor is copied, z = a tensor is cleared

extern "C" void ggml_backend_sched_synchronize(ggml_backend_sched_t sched) {
    REAL(ggml_backend_sched_synchronize);
    g_order += 's';
    ggml_backend_sched_synchronize_real(sched);
}

extern "C" void ggml_backend_tensor_copy(const ggml_tensor * src, ggml_tensor * dst) {
    REAL(ggml_backend_tensor_copy);
    g_order += 'c';
    ggml_backend_tensor_copy_real(src, dst);
}

extern "C" void ggml_backend_tensor_memset(ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    REAL(ggml_backend_tensor_memset);
    g_order += 'z';
    ggml_backend_tensor_memset_real(tensor, value, offset, size);
}

//
// helpers
//

// reads tokens until no cell is left
static void fill(llama_context * ctx, llama_seq_id seq_id = 0) {
    const auto st = tiny_stats(ctx, seq_id);
    CHECK(tiny_read(ctx, tiny_text(st.n_cells - st.n_used, 2), seq_id) == 0);
    CHECK(tiny_stats(ctx, seq_id).n_used == st.n_cells);
}

static llama_pos pos_max(llama_context * ctx, llama_seq_id seq_id = 0) {
    return llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id);
}

static std::vector<uint8_t> get_state(llama_context * ctx, llama_seq_id seq_id) {
    std::vector<uint8_t> res(llama_state_seq_get_size(ctx, seq_id));
    CHECK(llama_state_seq_get_data(ctx, res.data(), res.size(), seq_id) == res.size());
    return res;
}

static ggml_threadpool * new_pool(int n_threads) {
    auto params = ggml_threadpool_params_default(n_threads);
    auto * res  = ggml_threadpool_new(&params);
    CHECK(res);
    return res;
}

//
// threads
//

// an eviction after the pool of the last batch was freed
static void test_pool_is_gone() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64");

    auto * pool = new_pool(2);
    llama_attach_threadpool(ctx.get(), pool, pool);
    fill(ctx.get());
    llama_detach_threadpool(ctx.get());
    ggml_threadpool_free(pool);

    CHECK(tiny_read(ctx.get(), { 5 }) == 0);
    CHECK(tiny_stats(ctx.get()).n_evictions == 1);
}

static void test_pool_and_threads_of_batches() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64");

    auto * pool_one   = new_pool(1);
    auto * pool_batch = new_pool(2);
    llama_attach_threadpool(ctx.get(), pool_one, pool_batch);
    llama_set_n_threads(ctx.get(), 1, 2);
    const auto st = tiny_stats(ctx.get());
    CHECK(tiny_read(ctx.get(), tiny_text(st.n_cells - 1)) == 0);
    CHECK(tiny_read(ctx.get(), { 7 }) == 0); // a single token: computed with the other pool

    g_computed.clear();
    CHECK(tiny_read(ctx.get(), { 5 }) == 0);
    CHECK(tiny_stats(ctx.get()).n_evictions == 1);

    CHECK(g_computed.size() >= 3); // scores, compaction, the token
    for (size_t i = 0; i + 1 < g_computed.size(); ++i) {
        CHECK(g_computed[i].pool == pool_batch && g_computed[i].n_threads == 2);
    }
    CHECK(g_computed.back().pool == pool_one && g_computed.back().n_threads == 1);

    llama_detach_threadpool(ctx.get());
    ggml_threadpool_free(pool_one);
    ggml_threadpool_free(pool_batch);
}

//
// times
//

// the time of a batch is counted from its start to its end, with the eviction that it needs
static void test_times() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64");
    fill(ctx.get());
    llama_synchronize(ctx.get());

    llama_perf_context_reset(ctx.get());
    const int64_t t_start_us = ggml_time_us();
    CHECK(tiny_read(ctx.get(), tiny_text(32, 1)) == 0);
    llama_synchronize(ctx.get());

    const auto perf = llama_perf_context(ctx.get());
    CHECK(perf.n_p_eval == 32);
    CHECK(perf.t_p_eval_ms == (ggml_time_us() - t_start_us)/1000.0);
    CHECK(perf.t_p_eval_ms > tiny_stats(ctx.get()).t_evict_us/1000.0);
    CHECK(tiny_stats(ctx.get()).t_evict_us >= 2*1000*1000);
}

//
// failures
//

static void fail_at(int i_fail) {
    g_n_compute      = 0;
    g_compute_status = [=](int i) { return i == i_fail ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS; };
}

static void test_scoring_fails(const char * arch) {
    const auto model = tiny_model(arch);
    const auto ctx   = tiny_context(model.get(), "64");
    fill(ctx.get());
    const auto before = get_state(ctx.get(), 0);

    fail_at(0);
    CHECK(tiny_read(ctx.get(), { 5 }) == -3);
    CHECK(capkv_compress(ctx.get(), 0, 0) > 0); // the second eviction succeeds
    const auto after = tiny_go_on(ctx.get(), 40);

    const auto other = tiny_context(model.get(), "64");
    CHECK(llama_state_seq_set_data(other.get(), before.data(), before.size(), 0) == before.size());
    CHECK(capkv_compress(other.get(), 0, 0) > 0);
    CHECK(tiny_go_on(other.get(), 40) == after);
}

// a compaction that stops half-way leaves no usable cache: the sequence is emptied in all caches, and the batch is not read
static void test_compaction_fails(const char * arch, bool compress) {
    const auto model = tiny_model(arch);
    const auto ctx   = tiny_context(model.get(), "64", "capkv", 2);
    CHECK(tiny_read(ctx.get(), tiny_text(100, 3), 1) == 0);
    fill(ctx.get(), 0);
    const auto other = get_state(ctx.get(), 1);

    fail_at(1);
    CHECK(compress ? capkv_compress(ctx.get(), 0, 0) == -1 : tiny_read(ctx.get(), { 5 }, 0) == -3);
    CHECK(strstr(capkv_last_error(), "empty now"));
    g_compute_status = nullptr;

    CHECK(pos_max(ctx.get(), 0) == -1);
    CHECK(tiny_stats(ctx.get(), 0).n_used == 0 && tiny_stats(ctx.get(), 0).n_evictions == 0);
    CHECK(get_state(ctx.get(), 1) == other);

    // the emptied sequence goes on as a new one
    const auto fresh = tiny_context(model.get(), "64", "capkv", 2);
    for (auto * c : { ctx.get(), fresh.get() }) {
        CHECK(tiny_read(c, tiny_text(300, 4), 0) == 0);
    }
    CHECK(get_state(ctx.get(), 0).size() == get_state(fresh.get(), 0).size());
    CHECK(tiny_go_on(ctx.get(), 200) == tiny_go_on(fresh.get(), 200));
}

// two sequences need room for a batch: the eviction of one finds no memory, that of the other stops half-way, so the batch is not read
static void test_second_compaction_fails() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64", "capkv", 2);
    fill(ctx.get(), 0);
    fill(ctx.get(), 1);

    // graphs: the scores of the first, then the scores and the compaction of the second
    g_n_compute      = 0;
    g_compute_status = [](int i) { return i == 0 ? GGML_STATUS_ALLOC_FAILED : i == 2 ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS; };

    llama_batch batch = llama_batch_init(2, 0, 1);
    batch.n_tokens = 2;
    for (int i = 0; i < 2; ++i) {
        batch.token[i]     = 5;
        batch.pos[i]       = pos_max(ctx.get(), i) + 1;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = i;
        batch.logits[i]    = true;
    }
    const llama_pos end = batch.pos[0];
    CHECK(llama_decode(ctx.get(), batch) == -3);
    llama_batch_free(batch);
    g_compute_status = nullptr;

    CHECK(pos_max(ctx.get(), 0) == end - 1 && tiny_stats(ctx.get(), 0).n_evictions == 0);
    CHECK(pos_max(ctx.get(), 1) == -1);
}

// a failure is reported once
static void test_failure_is_over() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64");
    fill(ctx.get());

    fail_at(0);
    CHECK(capkv_compress(ctx.get(), 0, 0) == -1);
    g_compute_status = nullptr;

    CHECK(tiny_read(ctx.get(), { 5 }) == 0);
    CHECK(tiny_stats(ctx.get()).n_evictions == 1);
}

//
// waiting for what is still computed
//

// the size of a state needs the pending copies, and those need the batch that is still computed
static void test_copies_wait() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64", "capkv", 2);
    CHECK(tiny_read(ctx.get(), tiny_text(300), 0) == 0);
    llama_memory_seq_cp(llama_get_memory(ctx.get()), 0, 1, -1, -1);

    g_order.clear();
    CHECK(llama_state_seq_get_size(ctx.get(), 1) > 0);
    CHECK(g_order.find('c') != std::string::npos);
    CHECK(g_order.find('s') < g_order.find('c'));
}

// clearing the query sums of a sequence that begins anew waits too
static void test_sums_wait() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64", "expected");
    CHECK(tiny_read(ctx.get(), tiny_text(32)) == 0);
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, -1, -1));

    g_order.clear();
    CHECK(tiny_read(ctx.get(), tiny_text(32, 1)) == 0);
    CHECK(g_order.find('z') != std::string::npos);
    CHECK(g_order.find('s') < g_order.find('z'));
}

// an eviction of a sequence whose copy is pending
static void test_eviction_before_a_pending_copy() {
    const auto model = tiny_model();
    const auto ctx   = tiny_context(model.get(), "64", "capkv", 2);
    fill(ctx.get(), 0);
    llama_memory_seq_cp(llama_get_memory(ctx.get()), 0, 1, -1, -1);
    CHECK(capkv_compress(ctx.get(), 1, 0) > 0);
    CHECK(capkv_compress(ctx.get(), 0, 0) > 0);

    CHECK(tiny_go_on(ctx.get(), 60, 5, 0) == tiny_go_on(ctx.get(), 60, 5, 1));
}

int main() {
    tiny_quiet();
    test_pool_is_gone();
    test_pool_and_threads_of_batches();
    test_times();
    for (const char * arch : { "llama", "gemma3" }) {
        test_scoring_fails(arch);
        test_compaction_fails(arch, false);
        test_compaction_fails(arch, true);
    }
    test_second_compaction_fails();
    test_failure_is_over();
    test_copies_wait();
    test_sums_wait();
    test_eviction_before_a_pending_copy();
}
