#include "policy.h"

#include "capkv-error.h"

#include "ggml-backend.h"

#include <cmath>
#include <cstring>

//
// the table
//

#define CAPKV_POLICY(id) extern const capkv_policy capkv_policy_##id;
#include "policies.def"
#undef CAPKV_POLICY

#define CAPKV_POLICY(id) &capkv_policy_##id,
static const capkv_policy * const capkv_policies[] = {
#include "policies.def"
};
#undef CAPKV_POLICY

const capkv_policy * capkv_policy_find(const std::string & name) {
    for (const auto * policy : capkv_policies) {
        if (name == policy->name) {
            return policy;
        }
    }
    return nullptr;
}

size_t capkv_n_policies(void) {
    return sizeof(capkv_policies)/sizeof(capkv_policies[0]);
}

const capkv_policy_info * capkv_get_policy(size_t i) {
    return capkv_guard<const capkv_policy_info *>(nullptr, [&] {
        static const auto infos = [] {
            std::vector<capkv_policy_info> res;
            for (const auto * policy : capkv_policies) {
                res.push_back({ policy->name, policy->help });
            }
            return res;
        }();

        return i < infos.size() ? &infos[i] : nullptr;
    });
}

capkv_observe capkv_observe::in_type(ggml_type other) const {
    capkv_observe res = *this;

    res.type  = other;
    res.n_res = n_res*(ggml_type_size(type)*ggml_blck_size(other))/(ggml_type_size(other)*ggml_blck_size(type));

    return res;
}

//
// inputs
//

ggml_tensor * capkv_inputs::add(ggml_tensor * t, const void * data) {
    const auto * bytes = (const uint8_t *) data;

    for (const auto & item : items) {
        if (reuse && item.buft == buft && item.t->type == t->type && ggml_are_same_shape(item.t, t) && memcmp(item.data.data(), bytes, ggml_nbytes(t)) == 0) {
            return item.t;
        }
    }

    ggml_set_input(t);
    items.push_back({ t, std::vector<uint8_t>(bytes, bytes + ggml_nbytes(t)), buft });

    return t;
}

ggml_tensor * capkv_inputs::add_i32(ggml_context * ctx, const std::vector<int32_t> & data) {
    return add(ggml_new_tensor_1d(ctx, GGML_TYPE_I32, data.size()), data.data());
}

ggml_tensor * capkv_inputs::add_i64(ggml_context * ctx, const std::vector<int64_t> & data) {
    return add(ggml_new_tensor_1d(ctx, GGML_TYPE_I64, data.size()), data.data());
}

ggml_tensor * capkv_inputs::add_f32(ggml_context * ctx, const std::vector<float> & data, int64_t ne0, int64_t ne1) {
    GGML_ASSERT((int64_t) data.size() == ne0*ne1);

    return add(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, ne0, ne1), data.data());
}

void capkv_inputs::set(const std::function<ggml_backend_t(const item &)> & backend_of) const {
    for (const auto & item : items) {
        // an input that the policy did not use has no memory
        if (!item.t->buffer) {
            continue;
        }
        if (auto * backend = backend_of(item)) {
            ggml_backend_tensor_set_async(backend, item.t, item.data.data(), 0, item.data.size());
        } else {
            ggml_backend_tensor_set(item.t, item.data.data(), 0, item.data.size());
        }
    }
}

//
// RoPE
//

ggml_tensor * capkv_rope::apply(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const {
    if (!on) {
        return x;
    }

    ggml_tensor * res = ggml_rope_ext(ctx, x, pos, factors, params[1], params[2], params[4], 0, 0, 0, 0, 0, 0);

    // all parameters of the model's own node, also those that ggml_rope_ext() was not given
    memcpy(res->op_params, params, sizeof(params));

    return weight ? ggml_mul(ctx, res, weight) : res;
}

ggml_tensor * capkv_rope::shift(ggml_context * ctx, ggml_tensor * x, ggml_tensor * pos) const {
    if (!on) {
        return x;
    }

    capkv_rope plain = *this;
    plain.weight = nullptr;

    // the factors that a rotation multiplies the length by, as ggml computes them: the keys have them already
    float freq_scale, ext_factor;
    memcpy(&freq_scale, params + 6, sizeof(freq_scale));
    memcpy(&ext_factor, params + 7, sizeof(ext_factor));

    const float attn_factor = ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*logf(1.0f/freq_scale)) : 1.0f;
    memcpy(plain.params + 8, &attn_factor, sizeof(attn_factor));

    // the norm's weight comes after the rotation
    x = weight ? ggml_div(ctx, x, weight) : x;
    x = plain.apply(ctx, x, pos);

    return weight ? ggml_mul(ctx, x, weight) : x;
}

std::vector<int32_t> capkv_rope::pos_data(const std::vector<int32_t> & pos) const {
    if (!on || !is_mrope()) {
        return pos;
    }

    // M-RoPE has four sections; a text token has the same position in the first three
    const size_t n = pos.size();
    std::vector<int32_t> res(4*n, 0);
    for (size_t i = 0; i < 3*n; ++i) {
        res[i] = pos[i % n];
    }
    return res;
}

ggml_tensor * capkv_score_ctx::rotate(ggml_tensor * x, const std::vector<int32_t> & pos) const {
    std::vector<int32_t> rope_pos(pos);
    for (auto & p : rope_pos) {
        p -= pos_offset;
    }
    return rope->apply(ctx, x, inputs.add_i32(ctx, rope->pos_data(rope_pos)));
}

ggml_tensor * capkv_score_ctx::eye(int64_t d) const {
    std::vector<float> data(d*d, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
        data[i*d + i] = 1.0f;
    }
    return inputs.add_f32(ctx, data, d, d);
}

//
// seeded numbers
//

uint64_t capkv_hash(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30))*0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27))*0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

int32_t capkv_res_offset(uint32_t seed, int64_t j) {
    return (int32_t) (capkv_hash(capkv_hash(0x0ff5e7ull + seed) + (uint64_t) j) % 256);
}
