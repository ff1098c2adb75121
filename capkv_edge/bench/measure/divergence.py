"""How far a distribution over the next token is from another one: the measures of llama-perplexity's --kl-divergence."""

import numpy as np


def log_softmax(rows: np.ndarray) -> np.ndarray:
    """Log probabilities of logits, float32 [n, n_vocab]; sums are in float64."""
    shifted = rows - rows.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(np.float32)


def compare(base: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> dict:
    """Per token, float64 [n] each: how far log probabilities `rows` are from `base`.

    Args:
        base, rows: float32 [n, n_vocab].
        targets: the tokens that came next, int [n].

    Returns:
        kl: KL(base || rows) in nats. dloglik: change of the target's log probability in nats. same_top: 1 where the likeliest
        token is the same. dp: change of the target's probability.
    """
    kl = np.einsum("ij,ij->i", np.exp(base), base - rows, dtype=np.float64)
    at = np.arange(len(targets))
    p, q = base[at, targets].astype(np.float64), rows[at, targets].astype(np.float64)
    return dict(
        kl=kl,
        dloglik=q - p,
        same_top=(base.argmax(axis=1) == rows.argmax(axis=1)).astype(np.float64),
        dp=np.exp(q) - np.exp(p),
    )


def figures(tokens: dict) -> dict:
    """The figures of a row: those of compare() over all its tokens."""
    kl = tokens["kl"]
    return dict(
        n_scored=len(kl),
        kl_mean=float(kl.mean()),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.quantile(kl, 0.99)),
        dloglik=float(tokens["dloglik"].mean()),
        same_top=float(tokens["same_top"].mean()),
        rms_dp=float(np.sqrt((tokens["dp"] ** 2).mean())),
    )
