"""Random matrices in any of ggml's common types, made about as fast as they are written to a file.

For each standard deviation a pool of values is made once. A row of a matrix is runs of 256 values, each from a random place in
the pool, so that no two rows are alike and no matrix has a low rank.
Types that gguf can quantize are quantized from normal deviates. It cannot quantize k-quants; these are blocks of random bytes, of
which all are valid, with the blocks' scales set so that the mean is 0 and the standard deviation is the one asked for.
"""

import gguf
import numpy as np
from gguf import quants

QUANTIZED = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": None}
# type: (byte of the scale in a block, byte of the minimum's scale, type for rows whose length is not a multiple of 256)
K_QUANTS = {
    "Q2_K": (80, 82, "Q4_0"),
    "Q3_K": (108, None, "Q4_0"),
    "Q4_K": (0, 2, "Q5_0"),
    "Q5_K": (0, 2, "Q5_1"),
    "Q6_K": (208, None, "Q8_0"),
}
TYPES = (*FLOATS, *QUANTIZED, *K_QUANTS)
N_POOL, N_RUN = 1 << 21, 256  # values
N_CHUNK = 1 << 24  # bytes written at once


def type_for(name: str, n_columns: int) -> str:
    """The type of a matrix with rows of n_columns: the given one, or for k-quants a type with smaller blocks where theirs do not fit.

    Raises:
        ValueError: the blocks of no type fit.
    """
    if name in K_QUANTS and n_columns % 256:
        name = K_QUANTS[name][2]
    if n_columns % 32:
        raise ValueError(f"rows of {n_columns}: allowed are multiples of 32")
    return name


def _random_k(name: str, std: float, rng) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[name]
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (N_POOL // n_values, n_bytes), dtype=np.uint8)
    at, at_min, _ = K_QUANTS[name]

    def put(place, value):
        if place is not None:
            blocks[:, place : place + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)

    def values(scale, scale_min):
        put(at, scale)
        put(at_min, scale_min)
        return quants.dequantize(blocks[:512], kind)

    # a value is scale * a - scale_min * b; means and standard deviation are measured, which needs no formula of the type
    ratio = 0.0 if at_min is None else values(1, 0).mean() / -values(0, 1).mean()
    scale = std / values(1, ratio).std()
    values(scale, ratio * scale)
    return blocks


def make_pool(name: str, std: float, rng) -> np.ndarray:
    """uint8 [blocks, bytes of a block]: values of mean 0 and the given standard deviation; floats in blocks of 32."""
    if name in K_QUANTS:
        return _random_k(name, std, rng)
    values = rng.standard_normal((N_POOL // 32, 32), dtype=np.float32) * np.float32(std)
    if FLOATS.get(name):
        return values.astype(FLOATS[name]).view(np.uint8)
    return quants.quantize(values, gguf.GGMLQuantizationType[name])


def n_bytes_of_row(name: str, n_columns: int) -> int:
    """Bytes of a row of a matrix of that type."""
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return n_columns // n_values * n_bytes


class Matrices:
    """Makes matrices. The same seed and the same calls give the same bytes."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        self._pools = {}

    def rows(self, name: str, shape: tuple, std: float):
        """Yields the matrix in parts, uint8 [some rows, bytes of a row]."""
        if (name, std) not in self._pools:
            self._pools[name, std] = make_pool(name, std, self._rng)
        pool = self._pools[name, std]
        n_rows, n_row = shape[0], n_bytes_of_row(name, shape[1])
        n_block = pool.shape[1]
        in_run = len(pool) * N_RUN // N_POOL
        n_starts = len(pool) - in_run + 1
        runs = np.lib.stride_tricks.as_strided(pool, (n_starts, in_run * n_block), (n_block, 1))
        n_runs, step = -(-shape[1] // N_RUN), max(N_CHUNK // n_row, 1)
        for i in range(0, n_rows, step):
            n = min(step, n_rows - i)
            yield np.ascontiguousarray(runs[self._rng.integers(0, n_starts, (n, n_runs))].reshape(n, -1)[:, :n_row])
