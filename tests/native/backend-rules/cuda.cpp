// which operations ggml's CUDA backend has

#include "rules.h"

#include "ggml-impl.h"
#include "ggml-backend-impl.h"

struct ggml_backend_cuda_device_context      { int device; };
struct ggml_backend_cuda_buffer_type_context { int device; };

static bool ggml_backend_buft_is_cuda(ggml_backend_buffer_type_t)                  { return false; }
static bool ggml_cuda_flash_attn_ext_supported(int, const ggml_tensor *)           { return true; }
static bool ggml_cuda_lightning_indexer_supported(int, const ggml_tensor *)        { return true; }

#define GGML_CUDA_USE_CUB // as in every build with CUDA 11.7 or later
#define QK_K 256

namespace {
#include "cuda-fwht.inc"
#include "cuda-supports-op.inc"
}

bool cuda_has_op(const ggml_tensor * op) {
    ggml_backend_cuda_device_context ctx = { 0 };
    ggml_backend_device              dev = {};
    dev.context = &ctx;

    return ggml_backend_cuda_device_supports_op(&dev, op);
}
