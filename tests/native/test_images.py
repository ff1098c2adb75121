"""Images under M-RoPE: their entries share one position, and an eviction may keep a part of them."""

import ctypes

import llama_cpp
import numpy as np
import pytest
import saved_state
import tiny_archs
from sequences import Context

RECENT, WIDTH, HEIGHT = 16, 6, 4
N_IMAGE = WIDTH * HEIGHT


@pytest.fixture
def context(tmp_path):
    tiny_archs.write_mrope(tmp_path / "model.gguf")
    context = Context(tmp_path / "model.gguf", n_seq=1, budget=64, recent=RECENT)
    yield context
    context.close()


def read_image(context):
    """An image of WIDTH x HEIGHT random embeddings at the next position; returns that."""
    at, n = context.pos_max(0) + 1, N_IMAGE
    embd = np.random.default_rng(0).standard_normal((n, 128)).astype(np.float32)
    y, x = np.divmod(np.arange(n), WIDTH)
    pos = np.stack([np.full(n, at), at + y, at + x, np.zeros(n)]).astype(np.int32)
    ids = (ctypes.POINTER(ctypes.c_int32) * n)(*(ctypes.pointer(ctypes.c_int32(0)) for _ in range(n)))
    batch = llama_cpp.llama_batch(
        n_tokens=n,
        embd=embd.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        pos=pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
        n_seq_id=(ctypes.c_int32 * n)(*[1] * n),
        seq_id=ids,
        logits=(ctypes.c_int8 * n)(),
    )
    assert llama_cpp.llama_decode(context.ctx, batch) == 0
    return at


def read_text(context, first, n):
    rows = [(0, first + i, context.token(first + i, 0)) for i in range(n)]
    assert context.decode(rows) == 0


@pytest.mark.parametrize("n_after", [1, RECENT - 1, RECENT, RECENT + 5])
def test_the_tail_begins_after_an_image_that_is_not_there_in_full(context, n_after):
    n_cells = context.stats(0).n_cells
    context.read(n_cells - N_IMAGE - n_after, 0)
    at = read_image(context)
    read_text(context, at + WIDTH, n_after)
    assert context.compress(0) == n_cells - 64

    # the last RECENT entries: n_after of text, and before it a part of the image
    is_cut = 0 < RECENT - n_after < N_IMAGE
    pos_tail = at + 1 if is_cut else at + WIDTH + n_after - RECENT
    assert context.stats(0).pos_tail == context.pos_min(0) == pos_tail
    for head in context.held(0):
        assert (head >= at + WIDTH).sum() >= min(n_after, RECENT)
        assert (head == at).sum() >= RECENT - n_after

    # what is removed was there in full; what was not is refused
    assert not context.rm(0, pos_tail - 1, -1)
    before = [head[head < pos_tail] for head in context.held(0)]
    assert context.rm(0, pos_tail, -1)
    assert all(np.array_equal(a, b) for a, b in zip(before, context.held(0), strict=True))

    # and it goes on from there, the tail never begins further back than it did
    end = at + WIDTH + n_after
    for i in range(12):
        read_text(context, end + 30 * i, 30)
        assert context.stats(0).pos_tail >= pos_tail
    assert context.stats(0).n_evictions > 1
    for head in context.held(0):
        assert head[-RECENT:].tolist() == list(range(end + 360 - RECENT, end + 360))


def image_keys(context, at):
    """Keys of the image at a position, in the first layer: [n_head_kv, N_IMAGE, d], and what they are rotated to."""
    layer = saved_state.parse(context.save(0), has_ext=True).layers[0]
    found = np.stack([np.flatnonzero(row == at) for row in layer.pos])
    assert found.shape[1] == N_IMAGE
    return np.stack([k[i] for k, i in zip(layer.k, found)]), np.stack([rope[i] for rope, i in zip(layer.rope_pos, found)])


def test_an_image_goes_on_sharing_one_rope_position(tmp_path):
    tiny_archs.write_mrope(tmp_path / "model.gguf")
    options = dict(n_seq=1, budget=64, recent=32, type_k=0, type_v=0)
    moved, plain = (Context(tmp_path / "model.gguf", reindex=mode, **options) for mode in ("always", "never"))
    moved.read(200, 0)
    moved.compress(0)
    offset = moved.stats(0).pos_offset
    at = read_image(moved)
    assert offset == 200 - 64 == moved.stats(0).pos_offset and at == 200

    # an image that comes after the change is rotated as one that is read so much earlier
    plain.read(at - offset, 0)
    assert read_image(plain) == at - offset
    keys, rope = image_keys(moved, at)
    np.testing.assert_array_equal(rope, at - offset)
    np.testing.assert_allclose(keys, image_keys(plain, at - offset)[0], atol=1e-4)

    # and one that moves keeps its height and width: it is where it would be, had it been read there
    read_text(moved, at + WIDTH, 32 - N_IMAGE)
    moved.read(N_IMAGE, 0)
    assert moved.compress(0, 72) > 0
    shared = [rope[held == at] for held, rope in zip(moved.held(0), moved.rope(0))]
    assert all(len(set(some.tolist())) == 1 for some in shared if len(some)) and sum(map(len, shared)) > N_IMAGE
    assert all((np.diff(rope) >= 0).all() for rope in moved.rope(0))
    moved.close()
    plain.close()
