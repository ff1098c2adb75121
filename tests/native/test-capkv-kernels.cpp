// the kernels for the CPU, each target that this processor has, against the same in double

#include "kernels/cpu-target.h"
#include "tiny-model.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>

// the sizes of the widest target, in instructions that every processor has
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define CAPKV_TARGET(F) F(wide, true, "sse2", 16, 2, 8, 0)
#include "kernels/cpu-kernels.h"

static std::mt19937 g_rng(1);

static std::vector<float> random_values(size_t n) {
    std::normal_distribution<float> dist;
    std::vector<float> res(n);
    for (auto & x : res) {
        x = dist(g_rng);
    }
    return res;
}

// the largest difference, relative to the largest value, or to least where that is more
static double error_of(const std::vector<float> & got, const std::vector<double> & expected, double least = 1e-30) {
    double diff = 0.0;
    double max  = least;
    for (size_t i = 0; i < expected.size(); ++i) {
        diff = std::isfinite(got[i]) ? std::max(diff, std::fabs(got[i] - expected[i])) : INFINITY;
        max  = std::max(max, std::fabs(expected[i]));
    }
    return diff/max;
}

static void check(const capkv_cpu_target & cpu, const char * kernel, int64_t d, int64_t n, int64_t m, double error, double limit) {
    if (!(error <= limit)) {
        fprintf(stderr, "%s of %s, d = %d, n = %d, m = %d: error = %g\n", kernel, cpu.name, (int) d, (int) n, (int) m, error);
        exit(1);
    }
}

static int64_t pad(int64_t n, int64_t unit) {
    return (n + unit - 1)/unit*unit;
}

struct problem {
    const int64_t d;
    const int64_t n;
    const int64_t m;

    const std::vector<float> x = random_values(d*n);
    const std::vector<float> q = random_values(d*m);

    double dot(int64_t i, int64_t j) const {
        double sum = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            sum += (double) x[i*d + k]*q[j*d + k];
        }
        return sum;
    }
};

static std::vector<float> load_tiles(const capkv_cpu_target & cpu, const problem & p) {
    std::vector<float> res(pad(p.n, cpu.n_block)*p.d, NAN);
    for (int64_t i = 0; i < p.n; i += cpu.n_block) {
        cpu.load_tile(p.x.data(), p.d, p.n, i, res.data() + i*p.d);
    }
    return res;
}

static void check_attention(const capkv_cpu_target & cpu, const problem & p) {
    const float scale  = 0.7f/sqrtf((float) p.d);
    const float spread = 0.5f;

    const auto tiles = load_tiles(cpu, p);

    std::vector<float> n_vis(p.m);
    for (auto & x : n_vis) {
        x = 1 + g_rng()%p.n;
    }

    std::vector<double> weights(p.n, 0.0);
    std::vector<double> moments(p.n);
    for (int64_t j = 0; j < p.m; ++j) {
        std::vector<double> e(n_vis[j]);
        double sum = 0.0;
        for (size_t i = 0; i < e.size(); ++i) {
            e[i] = exp(p.dot(i, j)*scale);
            sum += e[i];
        }
        for (size_t i = 0; i < e.size(); ++i) {
            weights[i] += e[i]/sum/p.m;
        }
    }
    for (int64_t i = 0; i < p.n; ++i) {
        double mean = 0.0;
        double sqr  = 0.0;
        for (int64_t j = 0; j < p.m; ++j) {
            mean += p.dot(i, j)*scale/p.m;
        }
        for (int64_t j = 0; j < p.m; ++j) {
            sqr += pow(p.dot(i, j)*scale - mean, 2)/p.m;
        }
        moments[i] = mean + spread*sqr;
    }

    std::vector<float> logits(pad(p.n, cpu.n_block)*cpu.n_cols, NAN);
    std::vector<float> buf(p.d*cpu.n_cols, NAN);
    std::vector<float> got(p.n, NAN);

    cpu.mean_softmax(tiles.data(), p.q.data(), n_vis.data(), p.d, p.n, p.m, scale, logits.data(), buf.data(), got.data());
    check(cpu, "mean_softmax", p.d, p.n, p.m, error_of(got, weights), 1e-5);

    std::vector<float> out(tiles.size()/p.d);
    for (int64_t i = 0; i < p.n; i += cpu.n_block) {
        cpu.mean_var(tiles.data() + i*p.d, p.q.data(), p.d, p.m, scale, spread, buf.data(), out.data() + i);
    }
    check(cpu, "mean_var", p.d, p.n, p.m, error_of(out, moments, 1.0), 1e-5);
}

static void check_sqnorm(const capkv_cpu_target & cpu, const problem & p) {
    const auto tiles = load_tiles(cpu, p);

    auto l_inv = random_values(p.d*p.d);
    for (int64_t a = 0; a < p.d; ++a) {
        std::fill(l_inv.begin() + a*p.d + a + 1, l_inv.begin() + (a + 1)*p.d, 0.0f);
    }

    std::vector<double> expected(p.n, 0.0);
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t a = 0; a < p.d; ++a) {
            double sum = 0.0;
            for (int64_t k = 0; k < p.d; ++k) {
                sum += (double) l_inv[a*p.d + k]*p.x[i*p.d + k];
            }
            expected[i] += sum*sum;
        }
    }

    std::vector<float> buf(p.d*cpu.n_cols, NAN);
    std::vector<float> out(tiles.size()/p.d);
    for (int64_t i = 0; i < p.n; i += cpu.n_block) {
        cpu.sqnorm(tiles.data() + i*p.d, l_inv.data(), p.d, buf.data(), out.data() + i);
    }
    check(cpu, "sqnorm", p.d, p.n, p.m, error_of(out, expected), 1e-5);
}

// sum_i w_i x_i x_i^T in rows [a0, a1), its upper triangle; the rest is zero
static std::vector<double> gram_of(const problem & p, const std::vector<float> & w, int64_t a0, int64_t a1) {
    std::vector<double> res(p.d*p.d, 0.0);
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t a = a0; a < a1; ++a) {
            for (int64_t b = a; b < p.d; ++b) {
                res[a*p.d + b] += (double) w[i]*p.x[i*p.d + a]*p.x[i*p.d + b];
            }
        }
    }
    return res;
}

static void check_gram(const capkv_cpu_target & cpu, const problem & p) {
    auto w = random_values(p.n);
    for (auto & x : w) {
        x = std::fabs(x); // as weights are: a sum in which terms cancel out would be all rounding
    }

    const int64_t ld    = pad(p.d, cpu.n_cols);
    const int64_t d_pad = pad(p.d, cpu.n_block);

    std::vector<float> x(p.n*ld, 0.0f);
    for (int64_t i = 0; i < p.n; ++i) {
        std::copy_n(p.x.begin() + i*p.d, p.d, x.begin() + i*ld);
    }

    // some rows of it
    const int64_t a0 = g_rng()%(ld/cpu.n_cols)*cpu.n_cols;
    const int64_t a1 = std::min<int64_t>(p.d, a0 + (1 + g_rng()%3)*cpu.n_cols);

    std::vector<float> sum(pad(a1 - a0, cpu.n_cols)*d_pad, 0.0f);
    std::vector<float> buf(p.n*cpu.n_block, NAN);
    cpu.gram(x.data(), ld, w.data(), p.d, p.n, a0, a1, buf.data(), sum.data());

    std::vector<float> got(p.d*p.d, 0.0f);
    for (int64_t a = a0; a < a1; ++a) {
        std::copy(sum.begin() + (a - a0)*d_pad + a, sum.begin() + (a - a0)*d_pad + p.d, got.begin() + a*p.d + a);
    }
    check(cpu, "gram", p.d, p.n, p.m, error_of(got, gram_of(p, w, a0, a1)), 1e-5);
}

static void check_rows(const capkv_cpu_target & cpu, const problem & p) {
    std::vector<double> sum(p.d, 0.0);
    std::vector<double> dot(p.n, 0.0);
    for (int64_t i = 0; i < p.n; ++i) {
        double sqr = 0.0;
        for (int64_t k = 0; k < p.d; ++k) {
            sqr    += pow(p.x[i*p.d + k], 2);
            dot[i] += (double) p.x[i*p.d + k]*p.q[k];
        }
        dot[i] /= sqrt(sqr);
        for (int64_t k = 0; k < p.d; ++k) {
            sum[k] += p.x[i*p.d + k]/sqrt(sqr);
        }
    }

    std::vector<float> buf(p.d, NAN);
    std::vector<float> out_sum(p.d, NAN);
    std::vector<float> out_dot(p.n, NAN);
    cpu.unit_sum(p.x.data(), p.d, p.n, buf.data(), out_sum.data());
    cpu.unit_dot(p.x.data(), p.q.data(), p.d, p.n, out_dot.data());
    check(cpu, "unit_sum", p.d, p.n, p.m, error_of(out_sum, sum, 1.0), 1e-5);
    check(cpu, "unit_dot", p.d, p.n, p.m, error_of(out_dot, dot, 1.0), 1e-5);

    // a zero has no direction
    const std::vector<float> zeros(p.d, 0.0f);
    cpu.unit_sum(zeros.data(), p.d, 1, buf.data(), out_sum.data());
    cpu.unit_dot(zeros.data(), p.q.data(), p.d, 1, out_dot.data());
    CHECK(out_sum[0] == 0.0f && out_dot[0] == 0.0f);
}

// every scale that a block can have, those below the normal numbers of F16 too: all bits as ggml's
static void check_q8_0(const capkv_cpu_target & cpu) {
    const auto * traits = ggml_get_type_traits(GGML_TYPE_Q8_0);
    CHECK(traits->blck_size == CAPKV_CPU_Q8_0 && traits->type_size == sizeof(ggml_fp16_t) + CAPKV_CPU_Q8_0);

    const int64_t n = 0x10000*CAPKV_CPU_Q8_0;

    std::vector<uint8_t> data;
    for (int i = 0; i < 0x10000; ++i) {
        data.push_back(i & 0xff);
        data.push_back(i >> 8);
        for (int j = 0; j < CAPKV_CPU_Q8_0; ++j) {
            data.push_back(g_rng());
        }
    }

    std::vector<float> expected(n);
    std::vector<float> got(n);
    traits->to_float(data.data(), expected.data(), n);
    cpu.dequantize_q8_0(data.data(), n, got.data());
    for (int64_t i = 0; i < n; ++i) {
        CHECK(memcmp(&got[i], &expected[i], sizeof(float)) == 0 || (std::isnan(got[i]) && std::isnan(expected[i])));
    }
}

static void check_double(const capkv_cpu_target & cpu, const problem & p) {
    const int64_t d   = p.d;
    const double  r   = 0.3;
    const double  eps = 1e-3;

    auto w = random_values(p.n);
    for (auto & x : w) {
        x = fabsf(x);
    }

    std::vector<double> m(d*d, 0.0);
    cpu.gram_f64(p.x.data(), w.data(), d, p.n, eps, m.data());

    auto we = w;
    for (auto & x : we) {
        x += eps;
    }
    check(cpu, "gram_f64", d, p.n, p.m, error_of({ m.begin(), m.end() }, gram_of(p, we, 0, d)), 1e-6);

    std::vector<double> u = m;
    std::vector<double> inv_diag(d);
    cpu.factorize(d, r, u.data(), inv_diag.data());

    // u^T u is m + r, and u^T times the solution is what was given
    const std::vector<double> y0(p.q.begin(), p.q.begin() + d);
    std::vector<double> y = y0;
    cpu.solve(d, u.data(), inv_diag.data(), y.data());

    double error = 0.0;
    for (int64_t a = 0; a < d; ++a) {
        double sum_y = 0.0;
        for (int64_t k = 0; k <= a; ++k) {
            sum_y += u[k*d + a]*y[k];
        }
        error = std::max(error, std::fabs(sum_y - y0[a]));

        for (int64_t b = a; b < d; ++b) {
            double sum = 0.0;
            for (int64_t k = 0; k <= a; ++k) {
                sum += u[k*d + a]*u[k*d + b];
            }
            error = std::max(error, std::fabs(sum - m[a*d + b] - (a == b ? r : 0.0))/(1.0 + std::fabs(m[a*d + a])));
        }
        error = std::max(error, std::fabs(inv_diag[a]*u[a*d + a] - 1.0));
    }
    check(cpu, "factorize and solve", d, p.n, p.m, error, 1e-10);

    // each column of the inverse is the solution for a unit vector
    std::vector<double> buf(d*cpu.n_block, NAN);
    std::vector<float>  inv(d*d, NAN);
    cpu.invert(d, u.data(), inv_diag.data(), buf.data(), inv.data());

    std::vector<double> expected(d*d);
    for (int64_t c = 0; c < d; ++c) {
        std::fill(y.begin(), y.end(), 0.0);
        y[c] = 1.0;
        cpu.solve(d, u.data(), inv_diag.data(), y.data());
        for (int64_t k = 0; k < d; ++k) {
            expected[k*d + c] = y[k];
        }
    }
    check(cpu, "invert", d, p.n, p.m, error_of(inv, expected), 1e-6);
}

int main() {
    std::vector<const capkv_cpu_target *> targets = { &capkv_cpu_wide::target };
    for (size_t i = 0; const auto * target = capkv_cpu_target_at(i); ++i) {
        targets.push_back(target);
    }
    CHECK(&capkv_cpu_target_current() == targets[1]);

    for (const auto * cpu : targets) {
        printf("%s\n", cpu->name);
        check_q8_0(*cpu);
        for (const int64_t d : { 1, 2, 8, 30, 34, 64, 80, 128 }) {
            for (const int64_t n : { 1, 2, 15, 16, 31, 33, 130 }) {
                for (const int64_t m : { 1, 4, 7, 9, 32 }) {
                    const problem p { d, n, m };
                    check_attention(*cpu, p);
                    check_sqnorm(*cpu, p);
                    check_gram(*cpu, p);
                    check_rows(*cpu, p);
                    check_double(*cpu, p);
                }
            }
        }
    }
}
