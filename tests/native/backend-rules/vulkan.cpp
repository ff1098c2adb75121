// which operations ggml's Vulkan backend has

#include "rules.h"

#include "ggml-impl.h"
#include "ggml-backend-impl.h"

#include <algorithm>
#include <cmath>
#include <memory>

#define UNUSED GGML_UNUSED

static constexpr uint32_t num_argsort_pipelines = 11;
static constexpr uint32_t num_topk_pipelines    = 11;

static void * const vk_ptr_base = (void *) 0x1000;

// what the function below asks of a device: as good ones answer, the size of buffers aside
struct vk_device_struct {
    bool shader_int64          = true;
    bool buffer_device_address = true;
    bool shader_64b_indexing   = false;

    size_t max_buffer_size;

    struct {
        struct {
            size_t   maxStorageBufferRange;
            uint32_t maxComputeSharedMemorySize      = 32*1024;
            size_t   minStorageBufferOffsetAlignment = 64;
        } limits;
    } properties;

    bool mul_mat_id_s[GGML_TYPE_COUNT] = {};
    bool mul_mat_id_m[GGML_TYPE_COUNT] = {};
    bool mul_mat_id_l[GGML_TYPE_COUNT] = {};

    bool coopmat2                      = false;
    bool fp16                          = true;
    bool subgroup_shuffle              = true;
    bool subgroup_vote                 = true;
    bool subgroup_basic                = true;
    bool subgroup_arithmetic           = true;
    bool subgroup_require_full_support = true;
    bool vulkan_memory_model           = true;

    uint32_t subgroup_size_log2      = 5;
    uint32_t max_workgroup_size_log2 = 10;

    void * pipeline_topk_f32[num_topk_pipelines] = {};
    void * pipeline_topk_radix_f32               = nullptr;
    void * pipeline_dsv4_hc_comb_f32             = nullptr;
};

using vk_device = std::shared_ptr<vk_device_struct>;

struct ggml_backend_vk_device_context { size_t device; };

static vk_device g_device = std::make_shared<vk_device_struct>();

static const vk_device & ggml_vk_get_device(size_t) { return g_device; }

static bool ggml_vk_lightning_indexer_k_type_supported(ggml_type) { return true; }

namespace {
#include "vulkan-supports-op.inc"
}

bool vulkan_has_op(size_t n_buffer_max, const ggml_tensor * op) {
    ggml_backend_vk_device_context ctx = { 0 };
    ggml_backend_device            dev = {};
    dev.context = &ctx;

    g_device->max_buffer_size                         = n_buffer_max;
    g_device->properties.limits.maxStorageBufferRange = n_buffer_max;

    return ggml_backend_vk_device_supports_op(&dev, op);
}
