#include "cholesky.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// what is added to the diagonal; the last term only matters when the others are zero: no values, no weight
template <typename T>
static double capkv_ridge_of(int64_t d, const T * m, const capkv_ridge & ridge) {
    double tr = 0.0;
    for (int64_t i = 0; i < d; ++i) {
        tr += m[i*d + i];
    }
    return ridge.abs + ridge.rel*tr/d + 1e-30;
}

// upper factor U = L^T of u + r I, in place: right-looking, so that the inner loops run along rows and vectorize
static void capkv_factorize(int64_t d, double * u, double r) {
    for (int64_t i = 0; i < d; ++i) {
        u[i*d + i] += r;
    }

    for (int64_t k = 0; k < d; ++k) {
        double * uk = u + k*d;

        // u may have been rounded to f32: of a matrix without full rank that can leave a pivot below the ridge, even below
        // zero, and what stands beside it is rounding then
        if (!(uk[k] > 0.5*r)) {
            std::fill(uk + k, uk + d, 0.0);
            uk[k] = r;
        }

        const double inv = 1.0/std::sqrt(uk[k]);

        for (int64_t j = k; j < d; ++j) {
            uk[j] *= inv;
        }
        for (int64_t i = k + 1; i < d; ++i) {
            const double f = uk[i];
            double * ui = u + i*d;
            for (int64_t j = i; j < d; ++j) {
                ui[j] -= f*uk[j];
            }
        }
    }
}

// head i of the first source, its task's share
template <typename F>
static void capkv_each_head(const ggml_tensor * dst, int ith, int nth, F && f) {
    const ggml_tensor * m = dst->src[0];

    for (int64_t i = ith; i < m->ne[2]; i += nth) {
        f(i, (const float *) ((const char *) m->data + i*m->nb[2]), (float *) ((char *) dst->data + i*dst->nb[2]));
    }
}

// of head i: ridge [2, n_head], or [2, 1] for all of them
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

static void capkv_cholesky_inv_1(int64_t d, const float * m, float * out, const capkv_ridge & ridge, std::vector<double> & work) {
    work.resize(2*d*d);

    double * u = work.data();
    double * x = work.data() + d*d;

    std::copy(m, m + d*d, u);
    capkv_factorize(d, u, capkv_ridge_of(d, m, ridge));

    // L X = I by forward substitution, row by row
    for (int64_t i = 0; i < d; ++i) {
        double * xi = x + i*d;

        std::fill(xi, xi + d, 0.0);
        xi[i] = 1.0;

        for (int64_t k = 0; k < i; ++k) {
            const double f = u[k*d + i];
            const double * xk = x + k*d;
            for (int64_t j = 0; j <= k; ++j) {
                xi[j] -= f*xk[j];
            }
        }

        const double inv = 1.0/u[i*d + i];
        for (int64_t j = 0; j <= i; ++j) {
            xi[j] *= inv;
        }
        for (int64_t j = 0; j < d; ++j) {
            out[i*d + j] = (float) xi[j];
        }
    }
}

static void capkv_cholesky_inv_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    std::vector<double> work;

    capkv_each_head(dst, ith, nth, [&](int64_t i, const float * m, float * out) {
        capkv_cholesky_inv_1(dst->ne[0], m, out, capkv_get_ridge(dst->src[1], i), work);
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

static void capkv_capacity_op(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const int64_t d = dst->src[0]->ne[0];

    std::vector<double> u(d*d);

    capkv_each_head(dst, ith, nth, [&](int64_t i, const float * m, float * out) {
        const double r = capkv_ridge_of(d, m, capkv_get_ridge(dst->src[1], i));

        std::copy(m, m + d*d, u.begin());
        capkv_factorize(d, u.data(), r);

        double sum = 0.0; // 1/2 log det = sum of the logs of the factor's diagonal
        for (int64_t k = 0; k < d; ++k) {
            sum += std::log(u[k*d + k]) - 0.5*std::log(r);
        }

        out[0] = (float) sum;
        out[1] = (float) r;
    });
}

ggml_tensor * capkv_build_capacity(ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge) {
    capkv_check_args(m, ridge);

    ggml_tensor * args[] = { m, ridge };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, 2, 1, m->ne[2], 1, args, 2, capkv_capacity_op, GGML_N_TASKS_MAX, nullptr);
}

//
// leverage in double
//

// f32 sums round to about 1e-8 of the diagonal: up to here that is nothing next to the ridge
static constexpr double CAPKV_F32_RANGE = 2e4;

static void capkv_leverage_1(
        int64_t d, int64_t n, int64_t i0, const float * x, const float * w, double eps, const capkv_ridge & ridge, float * out, std::vector<double> & work) {
    work.assign(d*d + d, 0.0);

    double * u = work.data();
    double * y = work.data() + d*d;

    for (int64_t i = i0; i < n; ++i) {
        const float * xi = x + i*d;
        for (int64_t a = 0; a < d; ++a) {
            const double f = (w[i] + eps)*xi[a];
            for (int64_t b = a; b < d; ++b) {
                u[a*d + b] += f*xi[b];
            }
        }
    }

    capkv_factorize(d, u, capkv_ridge_of(d, u, ridge));

    for (int64_t i = 0; i < n; ++i) {
        std::copy(x + i*d, x + (i + 1)*d, y);

        // L y = x by columns, which are the rows of u
        double sum = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            y[k] /= u[k*d + k];
            sum += y[k]*y[k];
            for (int64_t j = k + 1; j < d; ++j) {
                y[j] -= y[k]*u[k*d + j];
            }
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

    std::vector<double> work;

    capkv_each_head(dst, ith, nth, [&](int64_t h, const float * mh, float * out) {
        double max = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            max = std::max(max, (double) mh[k*d + k]);
        }

        const auto head = [&](const ggml_tensor * t, int64_t i) { return (const float *) ((const char *) t->data + i*t->nb[2]); };
        const auto rh   = capkv_get_ridge(ridge, h);

        if (max < CAPKV_F32_RANGE*capkv_ridge_of(d, mh, rh)) {
            std::copy_n(head(s, h), n, out);
        } else {
            capkv_leverage_1(d, n, i0, head(x, h/r), head(w, h), eps, rh, out, work);
        }
    });
}

ggml_tensor * capkv_build_refine(
        ggml_context * ctx, ggml_tensor * m, ggml_tensor * ridge, ggml_tensor * s, ggml_tensor * x, ggml_tensor * w, float eps, int64_t i0) {
    capkv_check_args(m, ridge);

    ggml_tensor * args[] = { m, ridge, s, x, w, ggml_fill(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1), eps) };

    return ggml_custom_4d(ctx, GGML_TYPE_F32, s->ne[0], 1, s->ne[2], 1, args, 6, capkv_refine_op, GGML_N_TASKS_MAX, (void *) (intptr_t) i0);
}
