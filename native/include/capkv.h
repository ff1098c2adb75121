#ifndef CAPKV_H
#define CAPKV_H

// capkv: a budget for llama.cpp's KV cache
//
// With a budget, every KV head of every layer keeps the first n_sink tokens, the last n_recent ones and, of the rest, the
// entries that its policy scores highest. Without one, nothing of llama.cpp changes.
//
// Python reads this file through cffi: between the CDEF markers it stays plain C, without macros.

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef LLAMA_SHARED
#    if defined(_WIN32) && !defined(__MINGW32__)
#        ifdef LLAMA_BUILD
#            define CAPKV_API __declspec(dllexport)
#        else
#            define CAPKV_API __declspec(dllimport)
#        endif
#    else
#        define CAPKV_API __attribute__ ((visibility ("default")))
#    endif
#else
#    define CAPKV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// CDEF BEGIN

struct capkv_params {
    // the budget, in the unit that it was given in: at most one of the three is not zero, all zero = no budget
    uint32_t n_budget;     // tokens kept per KV head
    uint64_t budget_bytes; // bytes of K and V that all layers may take for one sequence, headroom not counted
    float    budget_share; // share of the logical context of a sequence, without an end of the trained length, in (0, 1]

    char     policy[32];
    uint32_t n_sink;       // first tokens, always kept
    uint32_t n_recent;     // last tokens, always kept; UINT32_MAX = the default, cut to half of a small budget
    uint32_t n_headroom;   // cells beyond the budget; UINT32_MAX = max(n_batch, n_budget/4)
    float    tau;          // sharpness of capkv-ref
    float    novelty;      // weight of key novelty in capkv
    uint32_t seed;         // of the query reservoir and of the policy `random`
    uint32_t untested;     // 1 = run architectures that were never tried with evictions
    uint32_t reindex;      // enum capkv_reindex

    // enum capkv_cells: how K and V are stored in a context whose type_k and type_v are both f16, the default of llama_context_params: a
    // context that is to have f16 needs f16 here as well. It is f16, too, where the heads of the model or the flash attention of a
    // device do not allow the type. capkv_get_params() tells the type of K
    uint32_t type;
};

enum capkv_cells {
    CAPKV_CELLS_F32,
    CAPKV_CELLS_F16,
    CAPKV_CELLS_BF16,
    CAPKV_CELLS_Q8_0,
    CAPKV_CELLS_Q5_1,
    CAPKV_CELLS_Q5_0,
    CAPKV_CELLS_Q4_1,
    CAPKV_CELLS_Q4_0,
};

// when the entries that are kept get new RoPE positions, from 0 on without gaps. The positions that callers see stay as they are
enum capkv_reindex {
    CAPKV_REINDEX_AUTO,   // before the text would pass the positions that the model was trained on
    CAPKV_REINDEX_NEVER,  // past them the model breaks down
    CAPKV_REINDEX_ALWAYS, // at each eviction
};

enum capkv_type {
    CAPKV_TYPE_UINT,   // a whole number; where the default depends on the context, also a word for that ("auto")
    CAPKV_TYPE_FLOAT,
    CAPKV_TYPE_SWITCH, // 0 or 1; command lines take it without a value, as 1
    CAPKV_TYPE_POLICY, // a policy's name
    CAPKV_TYPE_BUDGET, // a number of tokens, a memory size or a share: the three fields of the budget
    CAPKV_TYPE_CHOICE, // one of the words in `metavar`, which | separates; the field is the number of the word
};

// one option: --kv-NAME in llama.cpp's tools, kv_NAME in Python, LLAMA_ARG_KV_NAME in the environment, --NAME in capkv-chat
struct capkv_option {
    const char * name;          // "budget"
    enum capkv_type type;
    const char * env;           // "LLAMA_ARG_KV_BUDGET"
    const char * metavar;       // "N"; empty for a switch
    const char * default_value; // as text
    const char * range;         // what is allowed, as text
    const char * help;          // one line, lower case
};

struct capkv_policy_info {
    const char * name;
    const char * help; // one line, lower case
};

// of one sequence, or with seq_id = -1 summed over all of them
struct capkv_stats {
    uint64_t n_tokens;     // tokens that the sequence is long
    uint32_t n_cells;      // cells allocated
    uint32_t n_used;       // cells in use
    uint64_t n_evicted;    // tokens of it that each KV head no longer holds
    uint64_t n_evictions;  // times that the cache was compacted
    int64_t  t_evict_us;   // time spent in that, in us
    int64_t  t_score_us;   // of that: to score the entries; saved states do not have the parts
    int64_t  t_select_us;  // to choose those that stay, on the host
    int64_t  t_compact_us; // to move them, and to bring the position table up to date
    int32_t  pos_tail;     // first position of the exact tail: from here on every head holds every token; 0 = nothing was evicted
    int32_t  pos_offset;   // position minus RoPE position, of the tokens in the tail and of those to come
    uint64_t n_reindexes;  // times that the entries got new RoPE positions
    uint32_t n_pos_max;    // RoPE positions end here: the trained length, or what the RoPE scaling of the context makes of it

    uint64_t bytes_kv;     // K and V of the cells
    uint64_t bytes_obs;    // what the policy has observed of the queries
    uint64_t bytes_pos;    // position table, on the host
    uint64_t bytes_work;   // work memory of an eviction (one, shared by all sequences)
    uint64_t bytes_full;   // K and V that a full cache takes for the context; without an end, for the trained length or the tokens so far

    // share of the capacity C = 1/2 log det(I + sum_i w_i v_i v_i^T/ridge), summed over the KV heads of all layers, that the last
    // eviction retained, under the policy's own weights w (equal ones if it has none); 1 = nothing was evicted
    float capacity;
};

// what a context takes of the memory of one device, in bytes
struct capkv_device_memory {
    char     name[64];     // "CPU", "CUDA0"
    bool     host;         // the memory of this machine's processor
    uint64_t free;         // as ggml knows it, on some systems all that there is; both are 0 where it does not know
    uint64_t total;
    uint64_t bytes_model;  // weights
    uint64_t bytes_mapped; // of them: may be mapped from the file instead of being copied, if the model is opened so
    uint64_t bytes_cache;  // K and V of all sequences, with what is observed of the queries; states of recurrent layers
    uint64_t bytes_work;   // to compute batches and evictions
};

// k, v and query statistics of one layer, as a policy sees them; all f32, the last dimension is contiguous
struct capkv_score_input {
    int32_t n;         // entries
    int32_t n_head;    // query heads, a multiple of n_head_kv
    int32_t n_head_kv;
    int32_t d_k;
    int32_t d_v;

    const float * k;       // [n_head_kv, n, d_k] after RoPE
    const float * v;       // [n_head_kv, n, d_v]
    const int32_t * pos;   // [n_head_kv, n] positions, ascending; NULL = the last n before next_pos

    // as observed, before RoPE; NULL = nothing yet. A policy takes what it declares
    const float   * q_mean; // [n_head, d_k] mean
    const float   * q_cov;  // [n_head, d_k, d_k] covariance
    const float   * q;      // [n_q, n_head, d_k] sampled or last ones
    const int32_t * q_pos;  // [n_q] where they were asked; NULL = the last n_q before next_pos
    int32_t         n_q;

    int32_t next_pos;   // position of the next token
    float   kq_scale;   // scale of the attention logits, 0 = 1/sqrt(d_k)
    int32_t rope_type;  // LLAMA_ROPE_TYPE_NORM, LLAMA_ROPE_TYPE_NEOX or -1 = no RoPE
    int32_t n_rot;      // rotated dimensions
    float   freq_base;

    uint64_t n_evictions; // evictions so far: varies the policy `random`
    int32_t  il;          // layer: varies the policy `random`

    bool    graph_only; // on the CPU: leave the fused kernels out, and run what runs on other devices
    int32_t n_tile;     // take so many entries at once, as evictions from long caches do; 0 = all
};

// --- options ---

// no exception leaves a function; a pointer that may not be NULL is refused with an error where the function can return one

struct capkv_params capkv_default_params(void);

size_t                      capkv_n_options(void);
const struct capkv_option * capkv_get_option(size_t i);

size_t                           capkv_n_policies(void);
const struct capkv_policy_info * capkv_get_policy(size_t i);

// architectures that the tests run with evictions, by llama.cpp's names; any other needs `untested`
size_t       capkv_n_archs(void);
const char * capkv_get_arch(size_t i);

// set one option from text ("1024", "256MiB", "10%" for the budget); false and capkv_last_error() if the value is not allowed
bool capkv_params_set(struct capkv_params * params, const char * name, const char * value);

// one option as the text that sets it, floats with as many digits as they need; returns its length, writes at most n_max - 1
// characters and a zero; text may be NULL; -1 and capkv_last_error() if there is no such option
int32_t capkv_params_get(const struct capkv_params * params, const char * name, char * text, int32_t n_max);

// what the environment sets (LLAMA_ARG_KV_BUDGET and so on), the defaults for the rest; false and capkv_last_error() if a value is not
// allowed
bool capkv_get_env(struct capkv_params * params);

// set one option for the whole process (its environment variable); false and capkv_last_error() if the value is not allowed
bool capkv_set_env(const char * name, const char * value);

// check the options against each other (budget >= sink + recent + 1, and so on); false and capkv_last_error() if they clash
bool capkv_params_check(const struct capkv_params * params);

// what the last failed call on this thread has to say, or why the last context with a budget could not be made; never NULL
const char * capkv_last_error(void);

// --- contexts ---

// use these for the next call of llama_init_from_model on this thread, and for that one only, whether it succeeds or not; NULL
// takes it back
// without such a call the environment decides (LLAMA_ARG_KV_BUDGET and so on)
void capkv_set_next_params(const struct capkv_params * params);

// the parameters in force, all resolved (n_budget in tokens); false if the context has no budget; params may be NULL
bool capkv_get_params(const struct llama_context * ctx, struct capkv_params * params);

// whether the context has no end: it has a budget, and llama_context_params.n_ctx was 0, which is the trained length without one.
// llama_n_ctx() then tells 2^30, shared by its sequences: no limit in practice, and nothing is allocated by it. Explicit lengths stay
// limits; so does the trained length where the model or the options do not allow a longer text
bool capkv_is_endless(const struct llama_context * ctx);

// whether a text may be longer than the model was trained for, as far as the context goes; false without a budget
bool capkv_can_pass_trained(const struct llama_context * ctx);

// false and capkv_last_error() if the context has no budget or no such sequence
bool capkv_get_stats(const struct llama_context * ctx, int32_t seq_id, struct capkv_stats * stats);

// the same without the capacity, which is 0: after an eviction it takes d^3 operations for each KV head, the counts take none
bool capkv_get_counts(const struct llama_context * ctx, int32_t seq_id, struct capkv_stats * stats);

// what the context takes of each device; of a model that was opened with llama_model_params.no_alloc, what it would take. This reserves
// the work memory of an eviction, as the first batch does
// returns the number of devices, writes at most n_max; NULL asks for the number alone; -1 and capkv_last_error() if there is no such context
int32_t capkv_get_device_memory(struct llama_context * ctx, struct capkv_device_memory * devices, int32_t n_max);

// evict now, down to n_budget tokens (0 = the context's own budget)
// returns the number of tokens that each KV head dropped, 0 if the sequence is no longer than that, -1 and capkv_last_error() on failure
int32_t capkv_compress(struct llama_context * ctx, int32_t seq_id, uint32_t n_budget);

// false and capkv_last_error() if capkv_compress() refuses this budget: it is too small for sinks and recent window, or pins leave too
// little of it
bool capkv_can_compress(const struct llama_context * ctx, int32_t seq_id, uint32_t n_budget);

// pin the tokens at positions [p0, p1): no KV head drops them, whatever their scores are. They count against the budget, except for those
// among the sinks. The range may lie ahead of the text; its ends are not open. Copies and saved states hold the pins. A removal of
// tokens ends theirs, one of the whole sequence all
// false and capkv_last_error(), and nothing changes, if some heads have dropped a token of the range, or if pins, sinks and recent window
// would leave less than a quarter of the budget to choose from. capkv_compress() refuses a budget for the latter reason, too
bool capkv_pin(struct llama_context * ctx, int32_t seq_id, int32_t p0, int32_t p1);

// pin no position of [p0, p1) any more; negative ends are open
bool capkv_unpin(struct llama_context * ctx, int32_t seq_id, int32_t p0, int32_t p1);

// a question that is known before the text is read: its queries take part in each eviction, beside those of a sample of the text. The
// tokens are read behind what the sequence holds and removed again; the sequence is as it was, but its last logits are gone. The queries of
// the newest tokens, at most a third of the sample, stay until capkv_unfocus(), llama_memory_clear() or the next question: removals of
// tokens, and one of the whole sequence, leave them. Copies and saved states hold them. So begin with the question, with the template's
// text around it and the one that opens the answer, and then read the text
// returns how many queries are held; -1 and capkv_last_error() if the policy keeps no sample, or the tokens do not fit beside the text
// without an eviction, and nothing has changed; or if llama_decode() failed, and no question is held
int32_t capkv_focus(struct llama_context * ctx, int32_t seq_id, const int32_t * tokens, int32_t n_tokens);

// hold no question any more
bool capkv_unfocus(struct llama_context * ctx, int32_t seq_id);

// how many queries of a question are held; -1 and capkv_last_error() if there is no such sequence
int32_t capkv_n_focus(const struct llama_context * ctx, int32_t seq_id);

// how many can be: 0 if the context has no budget, or its policy keeps no sample of queries
int32_t capkv_n_focus_max(const struct llama_context * ctx);

// the functions below write to an array of at most n_max values; NULL asks for the number alone

// layers that the budget governs, ascending; returns their number (0 without a budget), writes at most n_max of them
int32_t capkv_get_layers(const struct llama_context * ctx, int32_t * layers, int32_t n_max);

// share of the capacity that the last eviction retained, for each of these layers; returns their number, writes at most n_max
// -1 and capkv_last_error() if there is no such sequence
int32_t capkv_get_capacity(const struct llama_context * ctx, int32_t seq_id, float * share, int32_t n_max);

// 0 if the budget does not govern the layer
int32_t capkv_n_head_kv(const struct llama_context * ctx, int32_t il);

// positions of the tokens that a KV head of a layer holds, ascending; returns their number, writes at most n_max of them
// -1 and capkv_last_error() if there is no such layer or head
int32_t capkv_get_positions(const struct llama_context * ctx, int32_t seq_id, int32_t il, int32_t head_kv, int32_t * pos, int32_t n_max);

// the same for the positions that the keys of these tokens are rotated to
int32_t capkv_get_rope_positions(const struct llama_context * ctx, int32_t seq_id, int32_t il, int32_t head_kv, int32_t * pos, int32_t n_max);

// the score that the policy gives to each entry now, the higher the sooner it stays: for the KV heads of all layers of capkv_get_layers(),
// one after the other, as many values as each of them holds entries, in the order of capkv_get_positions(). Sinks, recent window and pinned
// entries have one, too, though they stay whatever it is. Nothing changes: the next eviction computes its scores anew
// returns the number of values, writes at most n_max of them; -1 and capkv_last_error() if there is no such sequence or the computation
// failed
int32_t capkv_get_scores(struct llama_context * ctx, int32_t seq_id, float * scores, int32_t n_max);

// what is pinned: the two ends of each range, ascending, the second one exclusive; returns the number of ends, writes at most n_max
// -1 and capkv_last_error() if there is no such sequence
int32_t capkv_get_pins(const struct llama_context * ctx, int32_t seq_id, int32_t * ends, int32_t n_max);

// --- models over several machines ---

// the devices of a model that runs on RPC servers, "HOST:PORT,HOST:PORT", for the list llama_model_params.devices, which NULL ends: those
// of the servers, then the GPUs of this machine, as llama.cpp's --rpc has it. A model that is opened without such a list does not use them
// returns how many there are, writes at most n_max; -1 and capkv_last_error() if a name is not of this form, the libraries were built
// without RPC, or there are too many. ggml ends the process where it cannot connect: try that before
int32_t capkv_rpc_devices(const char * servers, void ** devices, int32_t n_max);

// --- scorers ---

// names of the ggml devices that policies can be run on
size_t       capkv_n_devices(void);
const char * capkv_get_device(size_t i);

// sets of vector instructions that this processor has and the kernels for the CPU are compiled for, the best one first
size_t       capkv_n_cpu_targets(void);
const char * capkv_get_cpu_target(size_t i);

// let the kernels for one of them run in this process; NULL: the first. For tests, while nothing is computed
bool capkv_set_cpu_target(const char * name);

// run the graph of params->policy on a ggml device ("CPU", "CUDA0", ...); scores: [n_head_kv, n]
bool capkv_score(const char * device, const struct capkv_params * params, const struct capkv_score_input * input, float * scores);

// CDEF END

#ifdef __cplusplus
}
#endif

#endif // CAPKV_H
