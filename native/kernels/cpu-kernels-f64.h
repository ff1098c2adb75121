// the part of cpu-kernels.h that computes in double

static void capkv_factorize(int64_t d, double r, double * u, double * inv_diag) {
    for (int64_t k = 0; k < d; ++k) {
        u[k*d + k] += r;
    }

    for (int64_t k = 0; k < d; ++k) {
        double * uk = u + k*d;

        // where m lacks full rank, its rounding to f32 can leave a pivot below the ridge, even below zero; the rest of the row
        // is rounding then
        if (!(uk[k] > 0.5*r)) {
            for (int64_t j = k + 1; j < d; ++j) {
                uk[j] = 0.0;
            }
            uk[k] = r;
        }

        const double inv = 1.0/sqrt(uk[k]);

        for (int64_t j = k; j < d; ++j) {
            uk[j] *= inv;
        }
        inv_diag[k] = 1.0/uk[k];

        for (int64_t i = k + 1; i < d; ++i) {
            const double f = uk[i];
            double * ui = u + i*d;
            for (int64_t j = i; j < d; ++j) {
                ui[j] -= f*uk[j];
            }
        }
    }
}

static void capkv_solve(int64_t d, const double * u, const double * inv_diag, double * y) {
    for (int64_t k = 0; k < d; ++k) {
        const double * uk = u + k*d;

        const double f = y[k]*inv_diag[k];

        y[k] = f;
        for (int64_t j = k + 1; j < d; ++j) {
            y[j] -= f*uk[j];
        }
    }
}

static void capkv_gram_f64(const float * x, const float * w, int64_t d, int64_t n, double eps, double * m) {
    for (int64_t i = 0; i < n; ++i) {
        const float * xi = x + i*d;
        for (int64_t a = 0; a < d; ++a) {
            const double f = (w[i] + eps)*xi[a];
            for (int64_t b = a; b < d; ++b) {
                m[a*d + b] += f*xi[b];
            }
        }
    }
}

#if defined(__GNUC__)
constexpr int64_t CAPKV_LANES_F64 = CAPKV_LANES/2;

typedef double capkv_vec_f64     __attribute__ ((vector_size (CAPKV_LANES*sizeof(float))));
typedef double capkv_vec_f64_mem __attribute__ ((vector_size (CAPKV_LANES*sizeof(float)), aligned(sizeof(double)), may_alias));
#else
constexpr int64_t CAPKV_LANES_F64 = 1;

typedef double capkv_vec_f64;
typedef double capkv_vec_f64_mem;
#endif

// columns of the inverse that are computed side by side: their sums stay in registers
constexpr int64_t CAPKV_INV_TILE = 4; // vectors
constexpr int64_t CAPKV_INV_COLS = CAPKV_INV_TILE*CAPKV_LANES_F64;

static void capkv_invert(int64_t d, const double * u, const double * inv_diag, double * buf, float * out) {
    for (int64_t c0 = 0; c0 < d; c0 += CAPKV_INV_COLS) {
        const int64_t nc = capkv_min(CAPKV_INV_COLS, d - c0);

        for (int64_t k = 0; k < c0; ++k) {
            for (int64_t c = 0; c < nc; ++c) {
                out[k*d + c0 + c] = 0.0f;
            }
        }

        // the solutions for the unit vectors of these columns, row by row: their rows above c0 are zero
        for (int64_t k = c0; k < d; ++k) {
            double * y = buf + (k - c0)*CAPKV_INV_COLS;
            for (int64_t c = 0; c < CAPKV_INV_COLS; ++c) {
                y[c] = k == c0 + c ? 1.0 : 0.0;
            }

            capkv_vec_f64_mem * yk = (capkv_vec_f64_mem *) y; // not auto, which drops the alignment

            capkv_vec_f64 sum[CAPKV_INV_TILE];
            for (int64_t t = 0; t < CAPKV_INV_TILE; ++t) {
                sum[t] = yk[t];
            }
            for (int64_t j = c0; j < k; ++j) {
                const capkv_vec_f64_mem * yj = (const capkv_vec_f64_mem *) (buf + (j - c0)*CAPKV_INV_COLS);
                for (int64_t t = 0; t < CAPKV_INV_TILE; ++t) {
                    sum[t] -= yj[t]*u[j*d + k];
                }
            }
            for (int64_t t = 0; t < CAPKV_INV_TILE; ++t) {
                yk[t] = sum[t]*inv_diag[k];
            }
            for (int64_t c = 0; c < nc; ++c) {
                out[k*d + c0 + c] = (float) y[c];
            }
        }
    }
}
