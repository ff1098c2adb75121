"""How likely tokens are that are known before, under teacher forcing."""

import numpy as np

from . import divergence


def log_likelihoods(stream, tokens, first: int, expected) -> np.ndarray:
    """Log probabilities in nats, float32 [n], of the expected tokens, int [n], while a stream reads tokens.

    Args:
        tokens: int [m], read after what the stream has read.
        first: position in the stream of the token that expected[0] comes after; the next one has expected[1], and so on.
    """
    found, expected = [], np.asarray(expected)

    def use(indices, rows):
        found.append(divergence.log_softmax(rows)[np.arange(len(indices)), expected[indices - first]])

    stream.read(tokens, range(first, first + len(expected)), use)
    return np.concatenate(found)
