#include "inverse.h"

static constexpr int   CAPKV_N_STEPS_SPLIT = 2;     // of the last steps
static constexpr float CAPKV_INVERSE_ERROR = 1e-4f; // that they leave, at most

// what rounding may add to the largest eigenvalue of A X, and take from the smallest in a step: a step that goes too far past 1
// would turn the sign of an eigenvalue
static constexpr float CAPKV_MARGIN_MAX = 1.02f;
static constexpr float CAPKV_MARGIN_MIN = 0.9f;

static float capkv_step_min(float l) {
    return 4.0f*l/((1.0f + l)*(1.0f + l));
}

// steps in single products until CAPKV_N_STEPS_SPLIT more leave no more than CAPKV_INVERSE_ERROR
static int capkv_n_steps_plain(float l) {
    for (int n = 0;; ++n) {
        float end = l;
        for (int i = 0; i < CAPKV_N_STEPS_SPLIT; ++i) {
            end = capkv_step_min(end);
        }
        if (1.0f - end <= CAPKV_INVERSE_ERROR) {
            return n;
        }
        l = CAPKV_MARGIN_MIN*capkv_step_min(l);
    }
}

// the sum of two that have 10 bits each
struct capkv_split {
    ggml_tensor * hi;
    ggml_tensor * lo;
};

static capkv_split capkv_split_of(ggml_context * ctx, ggml_tensor * x) {
    ggml_tensor * hi = ggml_cast(ctx, ggml_cast(ctx, x, GGML_TYPE_F16), GGML_TYPE_F32); // F16 has the 10 bits of TF32

    return { hi, ggml_sub(ctx, x, hi) };
}

ggml_tensor * capkv_build_split(ggml_context * ctx, ggml_tensor * x) {
    const auto s = capkv_split_of(ctx, x);

    return ggml_concat(ctx, s.hi, s.lo, 0);
}

// a^T b in more bits, as one product: (a_hi + a_lo)^T b_hi + a_hi^T b_lo. The product of the rests is left out
static ggml_tensor * capkv_build_mul_mat(ggml_context * ctx, const capkv_split & a, const capkv_split & b) {
    ggml_tensor * a3 = ggml_concat(ctx, ggml_concat(ctx, a.hi, a.lo, 0), a.hi, 0);
    ggml_tensor * b3 = ggml_concat(ctx, ggml_concat(ctx, b.hi, b.hi, 0), b.lo, 0);

    return capkv_build_mul_mat(ctx, a3, b3);
}

ggml_tensor * capkv_build_inverse(ggml_context * ctx, ggml_tensor * m, ggml_tensor * eye, float lambda) {
    const float d   = m->ne[0];
    const float max = CAPKV_MARGIN_MAX*(lambda + d);

    ggml_tensor * a = ggml_add(ctx, m, ggml_scale(ctx, eye, lambda));

    // the first step, from X = I/max, needs no product
    float l   = lambda/max;
    float rho = 2.0f/(1.0f + l);

    ggml_tensor * x = ggml_add(ctx, ggml_scale(ctx, a, -rho*rho/(max*max)), ggml_scale(ctx, eye, 2.0f*rho/max));
    l = CAPKV_MARGIN_MIN*capkv_step_min(l);

    // x <- rho x (2 - rho a x). All factors are symmetric but for rounding, so that a^T b is a b
    auto step = [&](ggml_tensor * xax) {
        x = ggml_sub(ctx, ggml_scale(ctx, x, 2.0f*rho), ggml_scale(ctx, xax, rho*rho));
    };

    for (int n = capkv_n_steps_plain(l); n > 0; --n) {
        rho = 2.0f/(1.0f + l);
        step(capkv_build_mul_mat(ctx, x, capkv_build_mul_mat(ctx, a, x)));
        l = CAPKV_MARGIN_MIN*capkv_step_min(l);
    }

    const auto a_split = capkv_split_of(ctx, a);

    for (int n = CAPKV_N_STEPS_SPLIT; n > 0; --n) {
        rho = 2.0f/(1.0f + l);
        const auto x_split = capkv_split_of(ctx, x);
        step(capkv_build_mul_mat(ctx, x_split, capkv_split_of(ctx, capkv_build_mul_mat(ctx, a_split, x_split))));
        l = capkv_step_min(l);
    }

    return x;
}
