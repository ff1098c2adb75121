// ggml's Metal backend up to the calls of Apple's libraries, which are only recorded. Its C++ is compiled as it is; of its Objective-C
// only the function that says which operations there are, see cmake/backend_rules.cmake

#include "rules.h"

#include "ggml-impl.h"
#include "ggml-backend-impl.h"

#include "ggml-metal/ggml-metal-common.h"
#include "ggml-metal/ggml-metal-device.h"
#include "ggml-metal/ggml-metal-fusion.h"
#include "ggml-metal/ggml-metal-impl.h"
#include "ggml-metal/ggml-metal-ops.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

struct ggml_metal_device {
    ggml_metal_device_props props;
};

struct ggml_metal_pipeline {
    std::string kernel;
};

// what a graph began
static std::vector<metal_dispatch> g_dispatches;
static metal_dispatch              g_next;

//
// the device
//

#include "metal-supports-op.inc"

static ggml_metal_device metal_device(const metal_chip & chip) {
    ggml_metal_device res = {};

    res.props.has_simdgroup_reduction    = chip.has_simdgroup_reduction;
    res.props.has_simdgroup_mm           = chip.has_simdgroup_mm;
    res.props.has_bfloat                 = chip.has_bfloat;
    res.props.has_tensor                 = chip.has_tensor;
    res.props.max_theadgroup_memory_size = 32*1024;

    return res;
}

ggml_metal_device_t ggml_metal_device_init(int, int)                   { return nullptr; }
void                ggml_metal_device_free(ggml_metal_device_t)        {}
ggml_metal_device_t ggml_metal_library_get_device(ggml_metal_library_t lib) { return (ggml_metal_device_t) lib; }

ggml_metal_library_t            ggml_metal_device_get_library(ggml_metal_device_t dev) { return (ggml_metal_library_t) dev; }
const ggml_metal_device_props * ggml_metal_device_get_props  (ggml_metal_device_t dev) { return &dev->props; }

ggml_metal_buffer_id ggml_metal_buffer_get_id(ggml_metal_buffer_t buf, const ggml_tensor * t) {
    return { buf, (size_t) ((const char *) t->data - (const char *) buf) };
}

//
// kernels
//

ggml_metal_cv_t ggml_metal_cv_init(void)                                   { return nullptr; }
void            ggml_metal_cv_free(ggml_metal_cv_t)                        {}
void            ggml_metal_cv_set_int16(ggml_metal_cv_t, int16_t, int32_t) {}
void            ggml_metal_cv_set_int32(ggml_metal_cv_t, int32_t, int32_t) {}
void            ggml_metal_cv_set_bool (ggml_metal_cv_t, bool,    int32_t) {}

void ggml_metal_pipeline_free(ggml_metal_pipeline_t) {}

int ggml_metal_pipeline_max_theads_per_threadgroup(ggml_metal_pipeline_with_params) { return 1024; }

ggml_metal_pipeline_with_params ggml_metal_library_get_pipeline(ggml_metal_library_t, const char *) { return {}; }

ggml_metal_pipeline_with_params ggml_metal_library_compile_pipeline(ggml_metal_library_t, const char * base, const char *, ggml_metal_cv_t) {
    static std::map<std::string, ggml_metal_pipeline> all;

    ggml_metal_pipeline_with_params res = {};
    res.pipeline = &all.insert({ base, { base } }).first->second;
    return res;
}

bool metal_has_kernel(const std::string & name) {
    static const std::set<std::string> all = [] {
        std::set<std::string> res;
        for (const auto & file : std::filesystem::directory_iterator(CAPKV_METAL_KERNELS)) {
            std::stringstream text;
            text << std::ifstream(file.path()).rdbuf();
            for (std::string word; text >> word;) {
                // [[host_name("kernel_x")]] or kernel_x(
                const size_t beg = word.find("kernel_");
                if (beg != std::string::npos) {
                    res.insert(word.substr(beg, word.find_first_of("\"(", beg) - beg));
                }
            }
        }
        return res;
    }();

    return all.count(name) > 0;
}

//
// the encoder
//

ggml_metal_encoder_t ggml_metal_encoder_init(ggml_metal_cmd_buf_t, bool) { return nullptr; }

void ggml_metal_encoder_free            (ggml_metal_encoder_t)               {}
void ggml_metal_encoder_end_encoding    (ggml_metal_encoder_t)               {}
void ggml_metal_encoder_memory_barrier  (ggml_metal_encoder_t)               {}
void ggml_metal_encoder_debug_group_push(ggml_metal_encoder_t, const char *) {}
void ggml_metal_encoder_debug_group_pop (ggml_metal_encoder_t)               {}

void ggml_metal_encoder_set_pipeline(ggml_metal_encoder_t, ggml_metal_pipeline_with_params pipeline) {
    g_next = { pipeline.pipeline->kernel, {}, {}, 0 };
}

void ggml_metal_encoder_set_bytes (ggml_metal_encoder_t, void *, size_t, int)          {}
void ggml_metal_encoder_set_buffer(ggml_metal_encoder_t, ggml_metal_buffer_id, int) {}

void ggml_metal_encoder_set_threadgroup_memory_size(ggml_metal_encoder_t, size_t size, int) {
    g_next.n_mem += GGML_PAD(size, 16);
}

void ggml_metal_encoder_dispatch_threadgroups(ggml_metal_encoder_t, int tg0, int tg1, int tg2, int tptg0, int tptg1, int tptg2) {
    g_dispatches.push_back({ g_next.kernel, { tg0, tg1, tg2 }, { tptg0, tptg1, tptg2 }, g_next.n_mem });
}

//
// what tests ask
//

bool metal_has_op(const metal_chip & chip, const ggml_tensor * op) {
    ggml_metal_device dev = metal_device(chip);

    return ggml_metal_device_supports_op(&dev, op);
}

std::vector<metal_dispatch> metal_encode(const metal_chip & chip, ggml_cgraph * gf) {
    ggml_metal_device dev = metal_device(chip);

    g_dispatches.clear();

    auto * fusion = ggml_metal_fusion_info_init(/*enabled =*/ true, /*debug =*/ 0);
    auto * op     = ggml_metal_op_init(&dev, nullptr, gf, fusion, 0, ggml_graph_n_nodes(gf), /*use_concurrency =*/ true, /*use_capture =*/ false, 0);

    for (int i = 0; i < ggml_metal_op_n_nodes(op);) {
        i += ggml_metal_op_encode(op, i);
    }

    ggml_metal_op_free(op);
    ggml_metal_fusion_info_free(fusion);

    return g_dispatches;
}
