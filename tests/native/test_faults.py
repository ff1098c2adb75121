"""What goes wrong from outside: aborts at any moment and memory that is not there. Each is an error, and the context goes on."""

import os
import random
import subprocess
import sys

import llama_cpp
import pytest
from driving import text

from capkv_edge import _lib

POLICIES = ("capkv", "capkv-ref", "streaming")


class Abort:
    """An abort callback on a context: says yes at its n-th call and ever after; 0 is never."""

    def __init__(self, context):
        self.n_calls, self.n = 0, 0
        self._callback = llama_cpp.ggml_abort_callback(self._asked)
        llama_cpp.llama_set_abort_callback(context.ctx, self._callback, None)

    def _asked(self, _):
        self.n_calls += 1
        return 0 < self.n <= self.n_calls

    def at(self, n):
        self.n_calls, self.n = 0, n


def full(context, policy_seed=0):
    """Read until the next token makes an eviction; returns the state."""
    context.read(text(256 + 192 + 192, seed=policy_seed))
    n = context.stats(0)
    context.read(text(n.n_cells - n.n_used, seed=1))
    n = context.stats(0)
    assert n.n_used == n.n_cells
    return context.get()


@pytest.mark.parametrize("policy", POLICIES)
def test_an_abort_at_any_node_of_an_eviction_or_the_decode_after_it(make_context, policy):
    context = make_context(policy)
    state, abort = full(context), Abort(context)
    end, before = context.end(), context.positions()
    abort.at(0)
    assert context.decode([5]) == 0
    n_all, evicted = abort.n_calls, context.positions()
    want = context.go_on(30)
    assert len(evicted[0]) == 65 and n_all > 40

    n_in_eviction = 0
    for n in sorted({*range(1, 30), *range(30, n_all, max(1, n_all // 80)), *range(n_all - 30, n_all + 1)}):
        abort.at(0)
        assert context.set(state) == len(state)
        abort.at(n)
        rc = context.decode([5])
        abort.at(0)
        assert rc == 2 and context.end() == end
        if context.positions() == before:  # the eviction was aborted: all is as it was
            n_in_eviction += 1
            assert context.get() == state
        else:  # the eviction was done, the decode was not
            assert context.positions() == [head[:-1] for head in evicted]
        assert context.decode([5]) == 0
        assert context.positions() == evicted
        if n % 8 == 1:
            assert context.go_on(30) == want
    assert n_in_eviction > 0


def test_compress_that_is_aborted_leaves_the_cache_as_it_was(make_context):
    context = make_context()
    context.read(text(200))
    state, abort = context.get(), Abort(context)
    abort.at(1)
    assert _lib.load()[1].capkv_compress(context.kv.ctx, 0, 0) == -1
    assert _lib.last_error() == "compress: the eviction failed, the cache is as it was"
    abort.at(0)
    assert context.get() == state
    assert _lib.load()[1].capkv_compress(context.kv.ctx, 0, 0) == 200 - 64
    context.read(text(300))


def test_aborts_at_random_moments_of_a_long_text(make_context):
    """Whatever was aborted is read again, as a caller would; nothing is lost or read twice."""
    context, rng = make_context(), random.Random(2)
    abort, tokens, n_aborted = Abort(context), text(1500), 0
    while (at := context.end()) < len(tokens):
        abort.at(rng.choice([0, rng.randrange(1, 150)]))
        rc = context.decode(tokens[at : at + rng.randrange(1, 33)])
        assert rc in (0, 2)
        n_aborted += rc > 0
        assert rc == 0 or context.end() == at
    abort.at(0)
    assert n_aborted > 10
    for head in context.positions():
        assert head == sorted(set(head)) and head[:4] == [0, 1, 2, 3] and head[-32:] == list(range(1468, 1500))
    assert len(context.go_on(20)[0]) == 20


# --- memory: in a process of its own, which may not have more than it has ---

ALLOCATION = """
import resource, sys
from driving import go_on, text
from capkv_edge import Llama

def limit(n_bytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))

def make(**options):
    return Llama(sys.argv[1], verbose=False, n_threads=1, n_threads_batch=1, **options)
"""

NO_CELLS = """
limit(4 << 30)
for n_ctx, budget in ((2**30, 2**30 - 4096), (2**31 - 1024, 2**31 - 4096), (2**26, 2**25)):
    try:
        make(n_ctx=n_ctx, kv_budget=budget, kv_headroom=512)
        print("made")
    except ValueError as err:
        print(err)
"""

USABLE = """
llm = make(n_ctx=1024, n_batch=32, kv_budget=64)
llm.eval(text(300))
print(len(go_on(llm, 10)), llm.kv_stats().n_evictions > 0)
"""


def run_limited(program, model):
    folders = sys.path
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    args = [sys.executable, "-c", ALLOCATION + program + USABLE, str(model)]
    ran = subprocess.run(args, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_budget_that_no_memory_suffices_for_is_an_error_that_names_it(tiny_llama):
    *errors, usable = run_limited(NO_CELLS, tiny_llama)
    assert [line.split(": ", 1)[1] for line in errors] == [
        "kv_budget = 1073737728: no memory for 1073738240 cells, 278527 MiB of K and V for each sequence",
        "kv_budget = 2147479552: no memory for 2147480064 cells, 557055 MiB of K and V for each sequence",
        "kv_budget = 33554432: no memory for 33554944 cells, 8704 MiB of K and V for each sequence",
    ]
    assert usable == "10 True"
