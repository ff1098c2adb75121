"""Read a saved sequence of a context with a budget: cells, K and V of each layer in float32, and the observed queries.

The format: the frame of native/capkv-state-io.cpp, in it native/capkv-state.cpp around llama_kv_cache::state_write(), which comes
first in every kind of memory; tensors apart from the rest.
"""

import ctypes
import struct
from dataclasses import dataclass, field

import gguf
import llama_cpp
import numpy as np
from reference import MASK, splitmix64

TAG = b"\x05\0\0\0capkv"
MAGIC, VERSION = 0x564B5043, 5
FRAME_VERSION = 3
N_HEAD = 48  # bytes of the frame's head: six numbers of eight bytes
OPTIONS = struct.Struct("<32sII")  # policy, sink, seed

# version 3: capkv_params as it was then in the place of the options, and an end mark after the rest
OPTIONS_V3 = struct.Struct("<I4xQf32sIIIffII")
END_V3 = 0x444E4543


@dataclass
class Layer:
    n_head: int
    n_head_kv: int
    d_k: int
    d_v: int
    k: np.ndarray = None  # [n_head_kv, n, d_k] after RoPE; a quantized K may be stored rotated
    v: np.ndarray = None  # [n_head_kv, n, d_v]
    type_k: int = None
    # before RoPE; None if not observed
    q_mean: np.ndarray = None  # [n_head, d_k]
    q_cov: np.ndarray = None  # [n_head, d_k, d_k] mean of the outer products
    q_res: np.ndarray = None  # [n_sampled, n_head, d_k] in the order of their rows
    q_last: np.ndarray = None  # [n_last, n_head, d_k] in the order of their positions
    pos: np.ndarray = None  # [n_head_kv, n] true positions
    rope_pos: np.ndarray = None  # [n_head_kv, n] those that k is rotated to


@dataclass
class Sequence:
    pos_cells: np.ndarray = None  # [n] ascending; in the middle they say nothing but the order
    pos_tail: int = 0
    evicted: bool = False
    n_sink: int = 0
    n_mid: int = 0
    offset: int = 0  # position minus RoPE position, in the tail
    n_sum: int = 0
    n_res: int = 0
    q_type: int = None  # of the stored rows of res and last
    res_pos: np.ndarray = None  # [n_res] position of the token in each row of the sample, -1 = none
    last_pos: np.ndarray = None  # [n_last] and of the last queries
    layers: list = field(default_factory=list)
    pins: np.ndarray = None  # [n_pins, 2] ends of the pinned ranges


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), "the state ends too early"
        self.at += n
        return self.data[self.at - n : self.at]

    def ints(self, kinds):
        out = struct.unpack("<" + kinds, self.take(struct.calcsize("<" + kinds)))
        return out if len(out) > 1 else out[0]

    def array(self, dtype, *shape):
        return np.frombuffer(self.take(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape).copy()


def save(ctx, seq_id=0) -> bytes:
    """The bytes of one sequence."""
    size = llama_cpp.llama_state_seq_get_size(ctx, seq_id)
    buf = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(ctx, buf, size, seq_id) == size
    return bytes(buf)


def parse(data: bytes, has_ext: bool = False) -> Sequence:
    """has_ext: the model's cells carry more than a position (M-RoPE)."""
    r, seq = Reader(data), Sequence()
    r.take(8)  # magic and sequence of llama.cpp
    assert r.take(len(TAG)) == TAG
    version, n_meta, n_data = r.ints("QQQ")
    assert version == FRAME_VERSION
    r.take(24)  # hash, offset, hash
    r, tensors = Reader(r.take(n_meta)), Reader(r.take(n_data))

    assert r.ints("II") == (MAGIC, VERSION)
    r.take(OPTIONS.size)
    mean, cov, seq.n_res, n_last, seq.q_type, n_layer = r.ints("IIIIII")
    seq.layers = [Layer(*r.ints("IIII")) for _ in range(n_layer)]
    assert r.ints("I") == 1  # sequences

    evicted, seq.pos_tail, seq.n_sink, seq.n_mid, seq.n_sum = r.ints("IiIIQ")
    seq.evicted = bool(evicted)
    r.take(24 + 16 * n_layer)  # counts of evictions, capacity of each layer
    row_pos = r.array("<i4", seq.n_res + n_last)
    seq.res_pos, seq.last_pos = row_pos[: seq.n_res], row_pos[seq.n_res :]
    tables = [r.array("<i4", layer.n_head_kv, seq.n_mid) for layer in seq.layers]
    _, reindexed = r.ints("QI")
    ropes = [None] * n_layer
    if reindexed:
        seq.offset = r.ints("i")
        sinks = r.array("<i4", seq.n_sink)
        ropes = [np.hstack([np.tile(sinks, (layer.n_head_kv, 1)), r.array("<i4", layer.n_head_kv, seq.n_mid)]) for layer in seq.layers]
    seq.pins = r.array("<i4", r.ints("I"), 2)

    order = _read_cells(r, tensors, seq, has_ext)
    for layer, table, rope in zip(seq.layers, tables, ropes):
        layer.pos = np.tile(seq.pos_cells[order], (layer.n_head_kv, 1))
        layer.pos[:, seq.n_sink : seq.n_sink + seq.n_mid] = table
        layer.rope_pos = layer.pos - seq.offset
        if rope is not None:
            layer.rope_pos[:, : rope.shape[1]] = rope
        _read_queries(tensors, seq, layer, mean, cov, row_pos)
    # what is left, in both parts or in none, is of the other memories of a model: windows, recurrent layers
    assert (r.at == len(r.data)) == (tensors.at == len(tensors.data))
    return seq


def _read_cells(r, tensors, seq, has_ext):
    assert r.ints("I") == 1  # streams
    n = r.ints("I")
    seq.pos_cells = np.empty(n, np.int64)
    for i in range(n):
        seq.pos_cells[i], n_seq = r.ints("iI")
        r.take(12 if has_ext else 0)
        r.take(4 * n_seq)
    order = np.argsort(seq.pos_cells, kind="stable")
    v_trans, n_layer = r.ints("II")
    assert v_trans == 0 and n_layer >= len(seq.layers)
    for part in "kv":
        layers = iter(seq.layers)
        for _ in range(n_layer):
            kind, size = r.ints("iQ")
            if size == 0:  # a layer without attention
                continue
            layer = next(layers)
            rows = np.frombuffer(tensors.take(n * size), np.uint8).reshape(n, size)
            setattr(layer, part, _dequantize(rows, kind)[order].reshape(n, layer.n_head_kv, -1).swapaxes(0, 1))
            layer.type_k = kind if part == "k" else layer.type_k
    return order


def _dequantize(rows, kind):
    # gguf wants F32 and F16 as arrays of that type, others as bytes
    rows = rows.view({0: np.float32, 1: np.float16}[kind]) if kind in (0, 1) else rows
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(kind))


def _row_size(n, kind):
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return n // block * size


def _read_queries(tensors, seq, layer, mean, cov, row_pos):
    if mean:
        total = tensors.array("<f4", layer.n_head, layer.d_k)
        layer.q_mean = total.astype(np.float64) / seq.n_sum if seq.n_sum else None
    if cov:
        total = tensors.array("<f4", layer.n_head, layer.d_k, layer.d_k)
        layer.q_cov = total.astype(np.float64) / seq.n_sum if seq.n_sum else None
    if len(row_pos):
        rows = tensors.array("u1", len(row_pos), _row_size(layer.n_head * layer.d_k, seq.q_type))
        rows = _dequantize(rows, seq.q_type).astype(np.float64).reshape(len(row_pos), layer.n_head, layer.d_k)
        layer.q_res = rows[: seq.n_res][seq.res_pos >= 0]
        last = np.argsort(seq.last_pos)
        layer.q_last = rows[seq.n_res :][last[seq.last_pos[last] >= 0]]


def fnv1a(data, value=0xCBF29CE484222325):
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return struct.pack("<Q", value)


def hash_of_meta(data, frame_version):
    """FNV-1a of words of 8 bytes and of the bytes that are left; before version 3 of the frame, of all bytes."""
    if frame_version < 3:
        return fnv1a(data)
    value, n = 0xCBF29CE484222325, len(data) // 8
    for word in struct.unpack_from(f"<{n}Q", data):
        value = (value ^ word) * 0x100000001B3 & MASK
    return fnv1a(data[8 * n :], value)


def _with_meta(data: bytes, edit, frame_version=FRAME_VERSION) -> bytes:
    """The state with edit(meta) in the place of all but its tensors, under a head that is true of it."""
    head = data.index(TAG) + len(TAG)
    _, n_meta, n_data = struct.unpack_from("<QQQ", data, head)
    start = head + N_HEAD
    meta = bytes(edit(bytearray(data[start : start + n_meta])))
    new = struct.pack("<QQQ", frame_version, len(meta), n_data) + hash_of_meta(meta, frame_version)
    if frame_version > 1:
        new += data[start - 16 : start - 8]  # the offset
    new += fnv1a(new)
    return data[:head] + new + meta + data[start + n_meta : -8] + new[-8:]


def with_query_type(data: bytes, kind: int) -> bytes:
    """The state, made up to hold observed queries of another type."""

    def edit(meta):
        struct.pack_into("<I", meta, meta.index(struct.pack("<II", MAGIC, VERSION)) + 8 + OPTIONS.size + 16, kind)
        return meta

    return _with_meta(data, edit)


def with_version(data: bytes, version: int) -> bytes:
    """The state as if it were of another version, without what that version changes."""
    return _with_meta(data, lambda meta: meta.replace(struct.pack("<II", MAGIC, VERSION), struct.pack("<II", MAGIC, version)))


def ending_with_a_zero(data: bytes) -> bytes:
    """The state of a plain cache with another time spent on evictions, such that its last byte is zero."""

    def edit(us):
        def with_time(meta):
            at = meta.index(struct.pack("<II", MAGIC, VERSION)) + 8 + OPTIONS.size
            (n_layer,) = struct.unpack_from("<I", meta, at + 20)
            struct.pack_into("<Q", meta, at + 24 + 16 * n_layer + 4 + 24 + 16, us)
            return meta

        return with_time

    return next(out for out in (_with_meta(data, edit(us)) for us in range(1 << 16)) if out[-1] == 0)


def _without_version_5(meta: bytearray) -> bytearray:
    """Without what version 5 added to each sequence; none of them has pins, or has got new RoPE positions."""
    at = meta.index(struct.pack("<II", MAGIC, VERSION))
    r = Reader(meta)
    r.take(at + 8 + OPTIONS.size)
    *_, n_res, n_last, _, n_layer = r.ints("IIIIII")
    heads = [r.ints("IIII")[1] for _ in range(n_layer)]
    out = meta[: r.at + 4]
    for _ in range(r.ints("I")):
        start = r.at
        n_mid = r.ints("IiIIQ")[3]
        r.take(24 + 16 * n_layer + 4 * (n_res + n_last) + 4 * n_mid * sum(heads))
        out += meta[start : r.at]
        assert r.ints("QII") == (0, 0, 0)
    return out + meta[r.at :]


def as_frame_2(data: bytes) -> bytes:
    """The state in version 2 of its frame, whose hash goes byte by byte."""
    return _with_meta(data, lambda meta: meta, frame_version=2)


def as_version_4(data: bytes) -> bytes:
    """The state in the layout of version 4."""

    def edit(meta):
        return _without_version_5(meta).replace(struct.pack("<II", MAGIC, VERSION), struct.pack("<II", MAGIC, 4))

    return _with_meta(data, edit, frame_version=1)


def as_version_3(data: bytes, with_end: bool = True) -> bytes:
    """The state in the layout of version 3, of a plain cache, whose end is the end of all but the tensors."""

    def edit(meta):
        meta = _without_version_5(meta)
        at = meta.index(struct.pack("<II", MAGIC, VERSION))
        policy, sink, seed = OPTIONS.unpack_from(meta, at + 8)
        options = OPTIONS_V3.pack(64, 0, 0.0, policy, sink, 32, 192, 5.0, 0.25, seed, 0)
        end = struct.pack("<I", END_V3) if with_end else bytes(4)
        return meta[:at] + struct.pack("<II", MAGIC, 3) + options + meta[at + 8 + OPTIONS.size :] + end

    return _with_meta(data, edit, frame_version=1)


def sampled_positions(end, seed=1, n_sink=4, n_res=90):
    """The positions in [n_sink, end) whose queries are in the sample: those with the lowest keys."""
    base = splitmix64(seed)
    return set(sorted(range(n_sink, end), key=lambda pos: splitmix64((base + pos) & MASK))[:n_res])
