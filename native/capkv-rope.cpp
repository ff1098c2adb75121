#include "capkv-rope.h"

#include <cstring>

ggml_tensor * capkv_find_rope(ggml_tensor * cur, capkv_after_rope & after) {
    for (int i = 0; i < 8 && cur; ++i) {
        switch (cur->op) {
            case GGML_OP_ROPE:
                return cur;
            case GGML_OP_SCALE:
                {
                    float s;
                    memcpy(&s, cur->op_params, sizeof(s));
                    after.scale *= s;
                } break;
            case GGML_OP_MUL:
                if (after.norm || after.weight || after.factor) {
                    return nullptr;
                }
                if (cur->src[1]->ne[0] == 1) {
                    after.factor = cur->src[1];
                } else if (ggml_nelements(cur->src[1]) == cur->ne[0]) {
                    after.weight = cur->src[1];
                } else {
                    return nullptr;
                }
                break;
            case GGML_OP_RMS_NORM:
                if (after.norm) {
                    return nullptr;
                }
                after.norm = cur;
                break;
            case GGML_OP_RESHAPE:
            case GGML_OP_CONT:
                break;
            default:
                return nullptr;
        }
        cur = cur->src[0];
    }
    return nullptr;
}

capkv_rope capkv_read_rope(const ggml_tensor * node, const capkv_after_rope & after) {
    capkv_rope res;

    if (node) {
        res.on      = true;
        res.factors = node->src[2];
        res.weight  = after.weight;
        memcpy(res.params, node->op_params, sizeof(res.params));
    }
    return res;
}

void capkv_key_ropes::see(ggml_tensor * k_cur, int il) {
    capkv_after_rope after;
    const ggml_tensor * node = capkv_find_rope(k_cur, after);

    ropes[il] = capkv_read_rope(node, after);
}

const capkv_rope * capkv_key_ropes::find(int il) const {
    const auto it = ropes.find(il);

    return it == ropes.end() ? nullptr : &it->second;
}
