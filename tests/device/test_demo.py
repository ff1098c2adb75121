"""The demo model on the device: its heads keep what they keep on the CPU."""

import numpy as np
from golden_run import GOLDEN

N_READ, N_BATCH = 288, 144  # lavapipe reads a few tokens in a second


def test_the_heads_keep_what_they_keep_on_the_cpu(device, open_on, demo_model):
    tokens = GOLDEN["tokens"].tolist()[:N_READ]
    held = []
    for name in (device, "CPU"):
        context = open_on(name, demo_model, n_seq=1, n_batch=N_BATCH, budget=96, headroom=160)
        for i in range(0, N_READ, N_BATCH):
            rows = [((0,), i + j, token, False) for j, token in enumerate(tokens[i : i + N_BATCH])]
            assert context.decode_rows(rows) == 0
        assert context.stats(0).n_evictions == 1
        held.append(context.held())
    same = [len(np.intersect1d(a, b)) / len(np.union1d(a, b)) for a, b in zip(*held, strict=True)]
    assert np.mean(same) >= 0.99
