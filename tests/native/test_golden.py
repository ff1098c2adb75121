"""The whole path against the authors' code: float32 weights and cache, one batch, one compression.

With the quantized model and an f16 cache the figures differ a little: scripts/checks/golden.py shows them.
"""

import numpy as np
import pytest
from plain_model import write_f32
from golden_run import GOLDEN, compare


@pytest.fixture(scope="module")
def f32_model(demo_model, tmp_path_factory):
    path = write_f32(demo_model, tmp_path_factory.mktemp("f32") / "f32.gguf")
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def rows(f32_model):
    return {row["budget"]: row for row in compare(f32_model, "f32", (64, 128, 256))}


@pytest.mark.parametrize("budget", [64, 128, 256])
def test_the_same_tokens_are_kept(rows, budget):
    assert rows[budget]["iou"] >= 0.99


@pytest.mark.parametrize("budget", [64, 128, 256])
def test_the_same_loss(rows, budget):
    assert rows[budget]["kl"] == pytest.approx(float(GOLDEN[f"kl_{budget}"]), rel=0.02)


def test_a_tighter_budget_loses_more(rows):
    losses = [rows[b]["kl"] for b in (256, 128, 64)]
    assert np.all(np.diff(losses) > 0)
