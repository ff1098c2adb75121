// The kernels for each set of vector instructions that a processor may have, and the choice of one of them, so that one build serves
// all processors of an architecture.
//
// A line names a target and says how to ask the processor for it, what compilers call its instructions, and the size of a tile:
// values in a vector, vectors of entries, columns, and the number of registers; 0 if that is unknown.
//
// What is included here comes before the first target, and the kernels are static and use nothing of C++'s library: of an inline
// function the linker keeps one copy for the whole library. If that were one with instructions of a target, it would end every
// program on a processor that lacks them. tests/build/test_cpu_targets.py looks for such copies.

#include "cpu-target.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <atomic>

#if defined(__x86_64__) && defined(__GNUC__)

#define CAPKV_HAS(instructions) __builtin_cpu_supports(instructions)

#define CAPKV_TARGET(F) F(avx512, CAPKV_HAS("avx512f") && CAPKV_HAS("avx512vl") && CAPKV_HAS("avx512dq"), "avx512f,avx512vl,avx512dq,fma", 16, 2, 8, 32)
#include "cpu-kernels.h"
#define CAPKV_TARGET(F) F(avx2, CAPKV_HAS("avx2") && CAPKV_HAS("fma"), "avx2,fma", 8, 2, 4, 16)
#include "cpu-kernels.h"
#define CAPKV_TARGET(F) F(sse2, true, "sse2", 4, 2, 4, 16)
#include "cpu-kernels.h"

static const capkv_cpu_target * const capkv_cpu_targets[] = { &capkv_cpu_avx512::target, &capkv_cpu_avx2::target, &capkv_cpu_sse2::target };

#elif defined(__ARM_NEON) && defined(__GNUC__)

#define CAPKV_TARGET(F) F(neon, true, "", 4, 4, 4, 32)
#include "cpu-kernels.h"

static const capkv_cpu_target * const capkv_cpu_targets[] = { &capkv_cpu_neon::target };

#else

// MSVC has no way to compile a part of a file for other instructions, and of other processors the registers are not known: graphs of
// ggml's operators are taken, and of the kernels those in double alone
#define CAPKV_TARGET(F) F(plain, true, "", 4, 2, 4, 0)
#include "cpu-kernels.h"

static const capkv_cpu_target * const capkv_cpu_targets[] = { &capkv_cpu_plain::target };

#endif

const capkv_cpu_target * capkv_cpu_target_at(size_t i) {
    for (const auto * target : capkv_cpu_targets) {
        if (target->is_there() && i-- == 0) {
            return target;
        }
    }
    return nullptr;
}

// what a test has chosen
static std::atomic<const capkv_cpu_target *> g_cpu_target { nullptr };

const capkv_cpu_target & capkv_cpu_target_current() {
    static const auto * best = capkv_cpu_target_at(0);

    const auto * target = g_cpu_target.load(std::memory_order_relaxed);

    return target ? *target : *best;
}

void capkv_cpu_target_set(const capkv_cpu_target * target) {
    g_cpu_target.store(target, std::memory_order_relaxed);
}
