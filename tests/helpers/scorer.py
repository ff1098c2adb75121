"""Call capkv_score(): one policy's graph on given data, on a ggml device."""

import numpy as np

from capkv_edge import _lib

NORM, NEOX, NO_ROPE = 0, 2, -1


def devices() -> list:
    """Names of the ggml devices that are present: the CPU, and accelerators."""
    ffi, lib = _lib.load()
    return [ffi.string(lib.capkv_get_device(i)).decode() for i in range(lib.capkv_n_devices())]


def cpu_targets() -> list:
    """Names of the sets of vector instructions that this processor has and the kernels are compiled for, the best first."""
    ffi, lib = _lib.load()
    return [ffi.string(lib.capkv_get_cpu_target(i)).decode() for i in range(lib.capkv_n_cpu_targets())]


def cpu_paths() -> list:
    """The ways to compute scores on the CPU, as keywords of score(): the kernels for each target, and the graph of other devices."""
    return [dict(target=name) for name in cpu_targets()] + [dict(graph_only=True)]


def set_cpu_target(name) -> None:
    """Let the kernels for a target run in this process; None: the best. Raises ValueError with what capkv_last_error() says."""
    ffi, lib = _lib.load()
    if not lib.capkv_set_cpu_target(ffi.NULL if name is None else name.encode()):
        raise ValueError(_lib.last_error())


def score(
    policy,
    k,
    v,
    *,
    pos=None,
    q_mean=None,
    q_cov=None,
    q=None,
    q_pos=None,
    next_pos=0,
    base=0.0,
    rope=NO_ROPE,
    device="CPU",
    options=None,
    n_evictions=0,
    il=0,
    graph_only=False,
    n_tile=0,
    target=None,
    n_head=None,
):
    """Scores [n_head_kv, n]. Raises ValueError with what capkv_last_error() says."""
    ffi, lib = _lib.load()
    params = ffi.new("struct capkv_params *", lib.capkv_default_params())
    for name, value in {"policy": policy, **(options or {})}.items():
        if not lib.capkv_params_set(params, name.encode(), str(value).encode()):
            raise ValueError(_lib.last_error())

    arrays = {}

    def pointer(name, x, dtype="float32"):
        if x is None:
            return ffi.NULL
        arrays[name] = np.ascontiguousarray(x, dtype)
        return ffi.cast(f"const {dtype.replace('32', '32_t') if 'int' in dtype else 'float'} *", arrays[name].ctypes.data)

    n_head_kv, n, d_k = k.shape
    some_q = q_mean if q_mean is not None else q[0] if q is not None else k[:, 0]
    n_head = len(some_q) if n_head is None else n_head
    inp = ffi.new("struct capkv_score_input *")
    inp.n, inp.n_head, inp.n_head_kv, inp.d_k, inp.d_v = n, n_head, n_head_kv, d_k, v.shape[2]
    inp.k, inp.v = pointer("k", k), pointer("v", v)
    inp.pos = pointer("pos", pos, "int32")
    inp.q_mean, inp.q_cov, inp.q = pointer("q_mean", q_mean), pointer("q_cov", q_cov), pointer("q", q)
    inp.q_pos, inp.n_q = pointer("q_pos", q_pos, "int32"), 0 if q is None else len(q)
    inp.next_pos, inp.rope_type, inp.n_rot, inp.freq_base = next_pos, rope, d_k, base
    inp.n_evictions, inp.il, inp.graph_only, inp.n_tile = n_evictions, il, graph_only, n_tile

    out = np.empty((n_head_kv, n), np.float32)
    set_cpu_target(target)
    try:
        if not lib.capkv_score(device.encode(), params, inp, ffi.cast("float *", out.ctypes.data)):
            raise ValueError(_lib.last_error())
    finally:
        set_cpu_target(None)
    return out
