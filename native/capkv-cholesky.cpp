#include "capkv-cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

// right-looking, on rows of the upper factor U = L^T, so that the inner loops run along rows and vectorize
static void capkv_cholesky_inv_1(int64_t d, const float * m, float * out, const capkv_ridge & ridge, std::vector<double> & work) {
    work.resize(2*d*d);

    double * u = work.data();
    double * x = work.data() + d*d;

    double tr = 0.0;
    for (int64_t i = 0; i < d; ++i) {
        tr += m[i*d + i];
    }

    // the last term only matters when both are zero: no values, no weight
    const double r = ridge.abs + ridge.rel*tr/d + 1e-30;

    for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) {
            u[i*d + j] = m[i*d + j];
        }
        u[i*d + i] += r;
    }

    for (int64_t k = 0; k < d; ++k) {
        double * uk = u + k*d;

        // m is rounded to f32: of a matrix without full rank that can leave a pivot below the ridge, even below zero, and what
        // stands beside it is rounding then
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

static void capkv_cholesky_inv_op(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const ggml_tensor * m = dst->src[0];

    const int64_t d = m->ne[0];
    const int64_t n = m->ne[2];

    std::vector<double> work;

    for (int64_t i = ith; i < n; i += nth) {
        capkv_cholesky_inv_1(d,
                (const float *) ((const char *) m->data + i*m->nb[2]),
                (      float *) ((      char *) dst->data + i*dst->nb[2]), *(const capkv_ridge *) userdata, work);
    }
}

ggml_tensor * capkv_build_cholesky_inv(ggml_context * ctx, ggml_tensor * m, const capkv_ridge * ridge) {
    GGML_ASSERT(m->type == GGML_TYPE_F32 && m->ne[0] == m->ne[1] && m->ne[3] == 1 && m->nb[1] == m->ne[0]*sizeof(float));

    return ggml_custom_4d(ctx, GGML_TYPE_F32, m->ne[0], m->ne[1], m->ne[2], 1, &m, 1,
            capkv_cholesky_inv_op, GGML_N_TASKS_MAX, const_cast<capkv_ridge *>(ridge));
}
