"""Helpers to drive a Llama on the tiny model: a small budget, random tokens, greedy continuations."""

import contextlib
import itertools
import resource
import signal

import numpy as np
import tiny_models

BUDGET = dict(kv_budget=64, n_batch=32)


def text(n, seed=0):
    """n random tokens of the tiny model."""
    return np.random.default_rng(seed).integers(3, tiny_models.N_VOCAB, n).tolist()


#: a small request for each path that takes a prompt
REQUESTS = {"/completion": {"prompt": text(20)}, "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]}}


def go_on(llm, n, first=5):
    """The n tokens that the model generates greedily after `first`."""
    return list(itertools.islice(llm.generate([first], reset=False, temp=0), n))


def complete(llm, prompt, n=20, **options):
    return llm.create_completion(prompt, max_tokens=n, temperature=0, **options)["choices"][0]["text"]


def stream(llm, prompt, n=20):
    """As complete(), from a stream, which leaves out bytes that are no whole character."""
    chunks = llm.create_completion(prompt, max_tokens=n, temperature=0, stream=True)
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


@contextlib.contextmanager
def files_of_at_most(n_bytes):
    """A context in which writing more than n_bytes to a file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
