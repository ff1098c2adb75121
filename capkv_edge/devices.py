"""Where a model and its cache are: the default number of layers on the GPU, and the devices that hold K and V."""

import llama_cpp

#: llama.cpp's number for all layers, the output layer included
ALL_LAYERS = -1


def default_gpu_layers() -> int:
    """All layers where llama.cpp can use a GPU, else none."""
    return ALL_LAYERS if llama_cpp.llama_supports_gpu_offload() else 0


def advice(n_gpu_layers: int) -> str:
    """What to try when a model could not be opened with n_gpu_layers on the GPU, for the end of the error; "" without a GPU."""
    if n_gpu_layers == 0 or not llama_cpp.llama_supports_gpu_offload():
        return ""
    return "; if the GPU's memory is short: a smaller n_gpu_layers (--gpu-layers) puts fewer layers there, 0 none"


def describe(buffers: dict) -> str:
    """The devices of a cache as text: "CPU", or with their shares "CUDA0 (75%), CPU (25%)".

    Args:
        buffers: {name of the ggml buffer: MiB}, as llama.cpp's log has them.
    """
    total = sum(buffers.values())
    if len(buffers) < 2 or not total:
        return ", ".join(buffers) or "unknown"
    return ", ".join(f"{name} ({part / total:.0%})" for name, part in buffers.items())
