// there is no memory for the work of an eviction: an error, and the context is as it was

#include "tiny-model.h"

#include <cerrno>

// ggml allocates the buffers of the CPU with this
static size_t g_refused_from = SIZE_MAX;
static size_t g_n_refused    = 0;

extern "C" int posix_memalign(void ** ptr, size_t alignment, size_t size) {
    if (size >= g_refused_from) {
        g_n_refused++;
        return ENOMEM;
    }
    *ptr = aligned_alloc(alignment, (size + alignment - 1)/alignment*alignment);
    return *ptr ? 0 : ENOMEM;
}

static void check(const char * policy) {
    const auto model = tiny_model();

    auto plenty = tiny_context(model.get(), "64", policy);
    CHECK(tiny_read(plenty.get(), tiny_text(240)) == 0);
    const size_t n_work = tiny_stats(plenty.get()).bytes_work;
    CHECK(n_work > 4096);

    // no memory from the first batch on
    auto ctx = tiny_context(model.get(), "64", policy);
    g_refused_from = n_work/2;
    CHECK(tiny_read(ctx.get(), tiny_text(240)) == 0);
    CHECK(g_n_refused > 0);
    CHECK(tiny_stats(ctx.get()).bytes_work < n_work);

    std::vector<uint8_t> before(llama_state_get_size(ctx.get()));
    std::vector<uint8_t> after(before.size());
    CHECK(llama_state_get_data(ctx.get(), before.data(), before.size()) == before.size());

    for (int i = 0; i < 3; ++i) {
        g_n_refused = 0;
        CHECK(tiny_read(ctx.get(), tiny_text(32, 1)) == 1);
        CHECK(g_n_refused > 0);
        CHECK(capkv_compress(ctx.get(), 0, 0) == -1);

        CHECK(llama_state_get_size(ctx.get()) == after.size());
        CHECK(llama_state_get_data(ctx.get(), after.data(), after.size()) == after.size());
        CHECK(after == before);
    }
    CHECK(tiny_read(ctx.get(), tiny_text(16, 1)) == 0); // this batch fits into the cells that are left

    // with memory again, it goes on as one that always had some
    g_refused_from = SIZE_MAX;
    CHECK(tiny_read(plenty.get(), tiny_text(16, 1)) == 0);
    CHECK(tiny_go_on(ctx.get(), 200) == tiny_go_on(plenty.get(), 200));
    CHECK(tiny_stats(ctx.get()).n_evictions > 0);
}

int main() {
    tiny_quiet();
    for (const char * policy : { "capkv", "capkv-ref", "streaming" }) {
        check(policy);
    }
}
