// how a budget gets into a context: which call it is for, flash attention, the context of a draft model

#include "tiny-device.h"

static capkv_params budget_of(uint32_t n) {
    capkv_params res = capkv_default_params();
    res.n_budget = n;
    return res;
}

static bool has_budget(const llama_context_ptr & ctx) {
    CHECK(ctx);
    return capkv_get_params(ctx.get(), nullptr);
}

// a budget is for one call, even if that fails before there is a context
static void check_params_are_for_one_call() {
    const auto model = tiny_model();
    const auto kv    = budget_of(64);

    auto params = tiny_context_params();
    params.n_batch = params.n_ubatch = 0;

    capkv_set_next_params(&kv);
    CHECK(!llama_init_from_model(model.get(), params));
    CHECK(!has_budget(llama_context_ptr(llama_init_from_model(model.get(), tiny_context_params()))));

    capkv_set_next_params(&kv);
    CHECK(!llama_init_from_model(nullptr, tiny_context_params()));
    CHECK(!has_budget(llama_context_ptr(llama_init_from_model(model.get(), tiny_context_params()))));

    capkv_set_next_params(&kv);
    CHECK(has_budget(llama_context_ptr(llama_init_from_model(model.get(), tiny_context_params()))));
    CHECK(!has_budget(llama_context_ptr(llama_init_from_model(model.get(), tiny_context_params()))));
}

// the context of a draft model has as many cells as without a budget
static void check_draft() {
    const auto model = tiny_model();
    const auto kv    = budget_of(64);

    for (const bool unified : { true, false }) {
        auto params = tiny_context_params(4);
        params.kv_unified = unified;

        size_t n_bytes[2];
        for (const bool on : { false, true }) {
            capkv_set_next_params(on ? &kv : nullptr);
            llama_context_ptr main(llama_init_from_model(model.get(), params));
            CHECK(has_budget(main) == on);

            auto params_draft = params;
            params_draft.kv_unified = params.kv_unified && !on; // as llama-server passes them on
            params_draft.n_ctx      = llama_n_ctx(main.get());
            params_draft.ctx_other  = main.get();

            llama_context_ptr draft(llama_init_from_model(model.get(), params_draft));
            CHECK(!has_budget(draft));
            CHECK(llama_n_ctx(draft.get()) == params.n_ctx);
            CHECK(llama_n_ctx_seq(draft.get()) == (unified ? params.n_ctx : params.n_ctx/4));

            // a length that the caller chose stays
            params_draft.n_ctx = 512;
            llama_context_ptr small(llama_init_from_model(model.get(), params_draft));
            CHECK(llama_n_ctx(small.get()) == (params_draft.kv_unified ? 512 : 4*256));
            n_bytes[on] = llama_n_ctx(draft.get());
        }
        CHECK(n_bytes[0] == n_bytes[1]);
    }
}

// a context whose length was not given has no end: callers are told of one that no text reaches, and nothing is allocated by it
static void check_endless() {
    const auto model = tiny_model();
    const auto kv    = budget_of(64);

    const uint32_t n_trained = llama_model_n_ctx_train(model.get());

    for (const uint32_t n_seq : { 1, 3, 32 }) {
        for (const bool unified : { true, false }) {
            auto params = tiny_context_params(n_seq);
            params.n_ctx      = 0;
            params.kv_unified = unified;

            capkv_set_next_params(&kv);
            llama_context_ptr main(llama_init_from_model(model.get(), params));
            CHECK(has_budget(main) && capkv_is_endless(main.get()) && capkv_can_pass_trained(main.get()));

            const uint32_t n_ctx_seq = llama_n_ctx_seq(main.get());
            CHECK(n_ctx_seq % 256 == 0 && n_ctx_seq > (1u << 30)/n_seq - 256 && n_ctx_seq <= (1u << 30)/n_seq);
            CHECK(llama_n_ctx(main.get()) == n_ctx_seq*n_seq);

            capkv_stats st;
            CHECK(capkv_get_stats(main.get(), 0, &st));
            CHECK(st.n_cells < 1024 && st.bytes_full == st.bytes_kv/st.n_cells*n_trained);

            // a draft's context ends, since it has no budget
            auto params_draft = params;
            params_draft.n_ctx     = llama_n_ctx(main.get());
            params_draft.ctx_other = main.get();

            llama_context_ptr draft(llama_init_from_model(model.get(), params_draft));
            CHECK(!has_budget(draft) && !capkv_is_endless(draft.get()));
            CHECK(llama_n_ctx_seq(draft.get()) == n_trained);
        }
    }

    // a text longer than the model was trained for
    auto params = tiny_context_params();
    params.n_ctx = 0;
    capkv_set_next_params(&kv);
    llama_context_ptr ctx(llama_init_from_model(model.get(), params));
    CHECK(tiny_read(ctx.get(), tiny_text(n_trained + 1000)) == 0);
    capkv_stats st;
    CHECK(capkv_get_stats(ctx.get(), 0, &st));
    CHECK(st.n_tokens == n_trained + 1000 && st.bytes_full == st.bytes_kv/st.n_cells*st.n_tokens);

    // an explicit length, no budget: all as ever
    capkv_set_next_params(&kv);
    CHECK(!capkv_is_endless(llama_context_ptr(llama_init_from_model(model.get(), tiny_context_params())).get()));
    llama_context_ptr without(llama_init_from_model(model.get(), params));
    CHECK(!capkv_is_endless(without.get()) && !capkv_can_pass_trained(without.get()) && llama_n_ctx(without.get()) == n_trained);

    // a budget that leaves no room in the trained length
    const auto all = budget_of(n_trained);
    capkv_set_next_params(&all);
    llama_context_ptr full(llama_init_from_model(model.get(), params));
    CHECK(has_budget(full) && !capkv_is_endless(full.get()) && !capkv_can_pass_trained(full.get()));
    CHECK(llama_n_ctx(full.get()) == n_trained);

    // more positions than llama.cpp's types hold
    params.n_ctx      = 1u << 30;
    params.n_seq_max  = 4;
    params.kv_unified = true;
    capkv_set_next_params(&kv);
    CHECK(!llama_init_from_model(model.get(), params));
    CHECK(strstr(capkv_last_error(), "n_ctx = 1073741824: allowed with kv_budget and 4 sequences is at most 1073741760"));
}

static void check_flash_attention() {
    const auto kv = budget_of(64);

    auto read = [&](llama_model * model, llama_flash_attn_type type) {
        auto params = tiny_context_params();
        params.flash_attn_type = type;
        params.op_offload      = false;
        capkv_set_next_params(&kv);
        llama_context_ptr ctx(llama_init_from_model(model, params));
        if (ctx) {
            CHECK(has_budget(ctx));
            CHECK(tiny_read(ctx.get(), tiny_text(400)) == 0);
            capkv_stats st;
            CHECK(capkv_get_stats(ctx.get(), 0, &st) && st.n_evictions > 0);
        }
        return ctx != nullptr;
    };

    const auto on_host = tiny_model();
    CHECK(read(on_host.get(), LLAMA_FLASH_ATTN_TYPE_AUTO));
    CHECK(!read(on_host.get(), LLAMA_FLASH_ATTN_TYPE_DISABLED));

    // `auto` depends on the device that has the layers
    const auto on_device = tiny_model("llama", 1, 99);
    CHECK(read(on_device.get(), LLAMA_FLASH_ATTN_TYPE_AUTO));

    g_tiny_device.refuses = [](const ggml_tensor * op) { return op->op == GGML_OP_FLASH_ATTN_EXT; };
    CHECK(!read(on_device.get(), LLAMA_FLASH_ATTN_TYPE_AUTO));
    CHECK(strstr(capkv_last_error(), "flash attention = auto: ") && strstr(capkv_last_error(), "TINY0 (heads of 16)"));
    CHECK(read(on_device.get(), LLAMA_FLASH_ATTN_TYPE_ENABLED)); // on the CPU then
    CHECK(!has_budget(llama_context_ptr(llama_init_from_model(on_device.get(), tiny_context_params()))));
    CHECK(read(on_host.get(), LLAMA_FLASH_ATTN_TYPE_AUTO));
}

int main() {
    tiny_quiet();
    check_params_are_for_one_call();
    check_draft();
    check_endless();

    tiny_device_register();
    check_flash_attention();
}
