#include "cholesky.h"

#include "cpu-target.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// the factor L of m + r I = L L^T, in double; r: the value of a ridge
struct capkv_cholesky {
    int64_t d = 0;

    std::vector<double> u;        // [d, d] L^T, upper triangular: the inner loops run along its rows and vectorize
    std::vector<double> inv_diag; // [d] 1/L_kk

    // m [d, d]: only the upper triangle is read
    template <typename T>
    void factorize(int64_t d, const T * m, double r);

    // y = L^-1 y in place
    void solve(double * y) const;
};

// the last term only matters when the others are zero: no values, or no weight
template <typename T>
double capkv_ridge_of(int64_t d, const T * m, const capkv_ridge & ridge) {
    double tr = 0.0;
    for (int64_t i = 0; i < d; ++i) {
        tr += m[i*d + i];
    }
    return ridge.abs + ridge.rel*tr/d + 1e-30;
}

template double capkv_ridge_of(int64_t, const float *, const capkv_ridge &);

template <typename T>
void capkv_cholesky::factorize(int64_t d_m, const T * m, double r) {
    d = d_m;

    u.assign(m, m + d*d);
    inv_diag.resize(d);

    capkv_cpu_target_current().factorize(d, r, u.data(), inv_diag.data());
}

void capkv_cholesky::solve(double * y) const {
    capkv_cpu_target_current().solve(d, u.data(), inv_diag.data(), y);
}

// call f(i, m, out) for each head i that is this thread's: its matrix and its part of the result
template <typename F>
static void capkv_each_head(const ggml_tensor * dst, int ith, int nth, F && f) {
    const ggml_tensor * m = dst->src[0];

    for (int64_t i = ith; i < m->ne[2]; i += nth) {
        f(i, (const float *) ((const char *) m->data + i*m->nb[2]), (float *) ((char *) dst->data + i*dst->nb[2]));
    }
}

static capkv_ridge capkv_get_ridge(const ggml_tensor * ridge, int64_t i) {
    const auto * data = (const float *) ((const char *) ridge->data + (ridge->ne[1] > 1 ? i*ridge->nb[1] : 0));

    return { data[0], data[1] };
}

static void capkv_check_args(const ggml_tensor * m, const ggml_tensor * ridge) {
    GGML_ASSERT(m->type == GGML_TYPE_F32 && m->ne[0] == m->ne[1] && m->ne[3] == 1 && m->nb[1] == m->ne[0]*sizeof(float));
    GGML_ASSERT(ridge->type == GGML_TYPE_F32 && ridge->ne[0] == 2 && (ridge->ne[1] == 1 || ridge->ne[1] == m->ne[2]));
}

//
// L^-1
//

static void capkv_cholesky_inv_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const int64_t d = dst->ne[0];

    const auto & cpu = capkv_cpu_target_current();

    capkv_cholesky factor;
    std::vector<double> buf(d*cpu.n_block);

    capkv_each_head(dst, ith, nth, [&](int64_t i, const float * m, float * out) {
        factor.factorize(d, m, capkv_ridge_of(d, m, capkv_get_ridge(dst->src[1], i)));

        cpu.invert(d, factor.u.data(), factor.inv_diag.data(), buf.data(), out);
    });
}

ggml_tensor * capkv_build_cholesky_inv(ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge) {
    capkv_check_args(m, ridge);

    ggml_tensor * args[] = { m, ridge };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, m->ne[0], m->ne[1], m->ne[2], 1, args, 2, capkv_cholesky_inv_op, GGML_N_TASKS_MAX, nullptr);
}

//
// capacity
//

double capkv_capacity_of(int64_t d, const float * m, double r) {
    capkv_cholesky factor;
    factor.factorize(d, m, r);

    double sum = 0.0; // 1/2 log det = sum of the logs of the factor's diagonal
    for (int64_t k = 0; k < d; ++k) {
        sum += std::log(factor.u[k*d + k]) - 0.5*std::log(r);
    }
    return sum;
}

//
// leverage in double
//

// The sums m of f32 values round to about 1e-8 of the diagonal. Up to this ratio of diagonal and ridge that is small next to
// the ridge; above it, the directions in which m is small are lost, and no factor of m brings them back.
static constexpr double CAPKV_F32_RANGE = 2e4;

// out = leverage of x [d, n] under weights w [n]: the formula of capkv_build_leverage(), in double from the sum on
static void capkv_leverage_f64(
        int64_t d, int64_t n, int64_t i0, const float * x, const float * w, double eps, const capkv_ridge & ridge, float * out, capkv_cholesky & factor) {
    std::vector<double> m(d*d, 0.0);

    capkv_cpu_target_current().gram_f64(x + i0*d, w + i0, d, n - i0, eps, m.data());

    factor.factorize(d, m.data(), capkv_ridge_of(d, m.data(), ridge));

    std::vector<double> y(d);

    for (int64_t i = 0; i < n; ++i) {
        std::copy(x + i*d, x + (i + 1)*d, y.begin());
        factor.solve(y.data());

        double sum = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            sum += y[k]*y[k];
        }
        out[i] = (float) (w[i]*sum);
    }
}

static void capkv_refine_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * m     = dst->src[0];
    const ggml_tensor * ridge = dst->src[1];
    const ggml_tensor * s     = dst->src[2];
    const ggml_tensor * x     = dst->src[3];
    const ggml_tensor * w     = dst->src[4];

    float eps;
    memcpy(&eps, dst->src[5]->data, sizeof(eps));

    const int64_t i0 = (int64_t) (intptr_t) userdata;

    const int64_t d = m->ne[0];
    const int64_t n = x->ne[1];
    const int64_t r = m->ne[2]/x->ne[2];

    const auto head = [&](const ggml_tensor * t, int64_t i) { return (const float *) ((const char *) t->data + i*t->nb[2]); };

    capkv_cholesky factor;

    capkv_each_head(dst, ith, nth, [&](int64_t h, const float * mh, float * out) {
        const auto rh = capkv_get_ridge(ridge, h);

        double max = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            max = std::max(max, (double) mh[k*d + k]);
        }

        if (max < CAPKV_F32_RANGE*capkv_ridge_of(d, mh, rh)) {
            std::copy_n(head(s, h), n, out);
        } else {
            capkv_leverage_f64(d, n, i0, head(x, h/r), head(w, h), eps, rh, out, factor);
        }
    });
}

ggml_tensor * capkv_build_refine(
        ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge, ggml_tensor * s, ggml_tensor * x, ggml_tensor * w, float eps, int64_t i0) {
    capkv_check_args(m, ridge);

    ggml_tensor * args[] = { m, ridge, s, x, w, ggml_fill(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1), eps) };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, s->ne[0], 1, s->ne[2], 1, args, 6, capkv_refine_op, GGML_N_TASKS_MAX, (void *) (intptr_t) i0);
}
