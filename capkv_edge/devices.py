"""Where a model and its cache are: the default number of layers on the GPU, its name, and the devices that hold K and V."""

import ctypes

import llama_cpp

from ._upstream import library

#: llama.cpp's number for all layers, the output layer included
ALL_LAYERS = -1

_GPU, _SHARED_GPU = 1, 2  # enum ggml_backend_dev_type: one with memory of its own, one with the processor's


def default_gpu_layers() -> int:
    """All layers where llama.cpp can use a GPU, else none."""
    return ALL_LAYERS if llama_cpp.llama_supports_gpu_offload() else 0


def gpu_name() -> str:
    """The name of the first GPU that ggml can use, such as "NVIDIA H200"; "" where there is none."""
    try:
        find, describe = library().ggml_backend_dev_by_type, library().ggml_backend_dev_description
    except AttributeError:  # not on Windows, where a library does not show what the libraries that it loads have
        return ""
    find.argtypes, find.restype = [ctypes.c_int], ctypes.c_void_p
    describe.argtypes, describe.restype = [ctypes.c_void_p], ctypes.c_char_p
    found = find(_GPU) or find(_SHARED_GPU)
    return describe(found).decode("utf-8", "replace") if found else ""


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
