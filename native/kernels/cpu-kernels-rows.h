// the part of cpu-kernels.h that computes entry by entry, with an entry's elements side by side in a vector

static inline float capkv_f16_to_f32(uint16_t x) {
    const uint32_t sign = (x & 0x8000u) << 16;
    uint32_t       bits = (x & 0x7fffu) << 13;

    float res;
    memcpy(&res, &bits, sizeof(res));
    res *= 0x1p112f; // the difference of the exponents' biases; also right for subnormal values
    memcpy(&bits, &res, sizeof(bits));

    bits |= sign | ((x & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u);
    memcpy(&res, &bits, sizeof(res));

    return res;
}

static void capkv_dequantize_q8_0(const void * data, int64_t n, float * y) {
    const auto * x = (const uint8_t *) data;

    for (int64_t i = 0; i < n; i += CAPKV_CPU_Q8_0, x += sizeof(uint16_t) + CAPKV_CPU_Q8_0) {
        const auto * q = (const int8_t *) x + sizeof(uint16_t);

        uint16_t bits;
        memcpy(&bits, x, sizeof(bits));
        const float scale = capkv_f16_to_f32(bits);

        for (int64_t j = 0; j < CAPKV_CPU_Q8_0; ++j) {
            y[i + j] = scale*q[j];
        }
    }
}

static inline float capkv_dot(const float * x, const float * y, int64_t d) {
    capkv_vec acc[2] = {};

    int64_t k = 0;
    for (; k + 2*CAPKV_LANES <= d; k += 2*CAPKV_LANES) {
        acc[0] += capkv_load(x + k)*capkv_load(y + k);
        acc[1] += capkv_load(x + k + CAPKV_LANES)*capkv_load(y + k + CAPKV_LANES);
    }

    float lane[CAPKV_LANES];
    acc[0] += acc[1];
    capkv_store(lane, acc[0]);

    float sum = 0.0f;
    for (int64_t l = 0; l < CAPKV_LANES; ++l) {
        sum += lane[l];
    }
    for (; k < d; ++k) {
        sum += x[k]*y[k];
    }
    return sum;
}

static inline float capkv_inv_norm(const float * x, int64_t d) {
    const float norm = sqrtf(capkv_dot(x, x, d));

    return 1.0f/(norm > 1e-12f ? norm : 1e-12f);
}

static void capkv_unit_sum(const float * x, int64_t d, int64_t n, float * buf, float * out) {
    for (int64_t k = 0; k < d; ++k) {
        out[k] = 0.0f;
    }
    for (int64_t i0 = 0; i0 < n; i0 += CAPKV_CPU_PART) {
        for (int64_t k = 0; k < d; ++k) {
            buf[k] = 0.0f;
        }
        for (int64_t i = i0; i < capkv_min(i0 + CAPKV_CPU_PART, n); ++i) {
            const float f = capkv_inv_norm(x + i*d, d);
            for (int64_t k = 0; k < d; ++k) {
                buf[k] += f*x[i*d + k];
            }
        }
        for (int64_t k = 0; k < d; ++k) {
            out[k] += buf[k];
        }
    }
}

static void capkv_unit_dot(const float * x, const float * y, int64_t d, int64_t n, float * out) {
    for (int64_t i = 0; i < n; ++i) {
        out[i] = capkv_inv_norm(x + i*d, d)*capkv_dot(x + i*d, y, d);
    }
}
