"""capkv.h, called as C programs call it: no wrong argument ends the process, and numbers do not depend on the locale."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import capkv_edge
from capkv_edge import _lib

PACKAGE_PARENT = os.path.dirname(os.path.dirname(capkv_edge.__file__))

# in a process of its own: a context with a budget of 64 that has evicted, and what a call says
PRELUDE = """
import sys
from bare_context import Context
from capkv_edge import _lib

ffi, lib = _lib.load()
NULL = ffi.NULL

def default(**fields):
    params = ffi.new("struct capkv_params *", lib.capkv_default_params())
    for name, value in fields.items():
        setattr(params, name, value)
    return params

def score_input(**fields):
    values = ffi.new("float[]", 64)
    score_input.keep = values
    base = dict(n=4, n_head=2, n_head_kv=2, d_k=4, d_v=4, k=values, v=values, next_pos=4, rope_type=-1)
    return ffi.new("struct capkv_score_input *", {**base, **fields})

def failed(result, bad, words):
    said = _lib.last_error()
    assert result == bad and words in said, (result, said)
"""


def run(code, *args, **env):
    path = os.pathsep.join([PACKAGE_PARENT, *sys.path])
    command = [sys.executable, "-X", "faulthandler", "-c", PRELUDE + code, *map(str, args)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True)


CALLS = """
context = Context(sys.argv[1])
context.read([3 + i % 250 for i in range(400)])
ctx = context.kv.ctx
one = ffi.new("int32_t[1]", [-7])
out = ffi.new("float[64]")
p = default()
none = "the context has no KV budget"

failed(lib.capkv_params_set(NULL, b"tau", b"1"), False, "NULL is not allowed")
failed(lib.capkv_get_device_memory(NULL, NULL, 0), -1, "NULL is not allowed")
failed(lib.capkv_params_set(p, NULL, b"1"), False, "NULL is not allowed")
failed(lib.capkv_params_set(p, b"tau", NULL), False, "NULL is not allowed")
failed(lib.capkv_params_set(p, b"bugdet", b"1"), False, "unknown option kv bugdet: allowed are budget")
failed(lib.capkv_params_set(p, bytes([255, 254]), b"1"), False, "unknown option")
failed(lib.capkv_params_set(p, b"tau", b"9" * 100000), False, "kv_tau = 999")
failed(lib.capkv_params_get(NULL, b"tau", NULL, 0), -1, "NULL is not allowed")
failed(lib.capkv_params_get(p, NULL, NULL, 0), -1, "NULL is not allowed")
failed(lib.capkv_params_get(p, b"bugdet", NULL, 0), -1, "unknown option kv bugdet: allowed are budget")
text = ffi.new("char[4]", b"xyz")
assert [lib.capkv_params_get(p, b"novelty", text, n_max) for n_max in (-1, 0)] == [4, 4] and ffi.string(text) == b"xyz"
assert lib.capkv_params_get(p, b"novelty", text, 4) == 4 and ffi.string(text) == b"0.2"
assert lib.capkv_params_get(default(policy=b"x" * 32), b"policy", NULL, 0) == 32
failed(lib.capkv_set_env(NULL, b"1"), False, "NULL is not allowed")
failed(lib.capkv_set_env(b"tau", NULL), False, "NULL is not allowed")
failed(lib.capkv_set_env(b"tau", b"x"), False, "kv_tau = x")
failed(lib.capkv_params_check(NULL), False, "NULL is not allowed")
failed(lib.capkv_params_check(default(policy=b"x" * 32)), False, "kv_policy = " + "x" * 32)
failed(lib.capkv_params_check(default(tau=float("nan"))), False, "kv_tau = nan")
failed(lib.capkv_params_check(default(tau=100.5)), False, "kv_tau = 100.5: allowed")
failed(lib.capkv_params_check(default(budget_share=-0.5)), False, "kv_budget = -50%: allowed")
failed(lib.capkv_params_check(default(n_budget=2**32 - 1)), False, "kv_budget = 4294967295")
failed(lib.capkv_params_check(default(n_budget=64, n_sink=2**32 - 1)), False, "kv_budget = 64")
failed(lib.capkv_params_check(default(untested=2)), False, "kv_untested = 2: allowed is 0 or 1")
failed(lib.capkv_params_check(default(n_sink=2**31)), False, "kv_sink = 2147483648: allowed is 0 to 2147483647")
failed(lib.capkv_params_check(default(n_headroom=2**31)), False, "kv_headroom = 2147483648: allowed is auto")
failed(lib.capkv_params_check(default(budget_bytes=10**16)), False, "kv_budget = 10000000GB: allowed is above 0 and below 1e15 bytes")

for i in (2**31, 2**64 - 1):
    assert lib.capkv_get_option(i) == NULL and lib.capkv_get_policy(i) == NULL
    assert lib.capkv_get_arch(i) == NULL and lib.capkv_get_device(i) == NULL and lib.capkv_get_cpu_target(i) == NULL
assert min(lib.capkv_n_options(), lib.capkv_n_policies(), lib.capkv_n_archs(), lib.capkv_n_devices(), lib.capkv_n_cpu_targets()) > 0
failed(lib.capkv_set_cpu_target(b"mmx"), False, "name = mmx: allowed is one of ")
assert lib.capkv_set_cpu_target(lib.capkv_get_cpu_target(0)) and lib.capkv_set_cpu_target(NULL)
assert ffi.string(lib.capkv_get_arch(0)) == b"llama"
lib.capkv_set_next_params(NULL)

assert not lib.capkv_get_params(NULL, p) and not lib.capkv_get_params(NULL, NULL)
assert lib.capkv_get_params(ctx, NULL)
failed(lib.capkv_get_stats(NULL, 0, ffi.new("struct capkv_stats *")), False, none)
failed(lib.capkv_get_stats(ctx, 0, NULL), False, "NULL is not allowed")
failed(lib.capkv_get_stats(ctx, 4, ffi.new("struct capkv_stats *")), False, "seq_id = 4: allowed is 0 to 3")
failed(lib.capkv_get_counts(NULL, 0, ffi.new("struct capkv_stats *")), False, none)
failed(lib.capkv_get_counts(ctx, 0, NULL), False, "NULL is not allowed")
counts, stats = ffi.new("struct capkv_stats *"), ffi.new("struct capkv_stats *")
assert lib.capkv_get_counts(ctx, 0, counts) and lib.capkv_get_stats(ctx, 0, stats)
assert counts.capacity == 0 < stats.capacity < 1 and counts.n_evicted == stats.n_evicted > 0 and counts.n_used == stats.n_used
failed(lib.capkv_get_env(NULL), False, "NULL is not allowed")
assert not lib.capkv_is_endless(NULL) and not lib.capkv_can_pass_trained(NULL)
failed(lib.capkv_pin(NULL, 0, 0, 8), False, none)
failed(lib.capkv_pin(ctx, 9, 0, 8), False, "seq_id = 9")
failed(lib.capkv_unpin(NULL, 0, 0, 8), False, none)
failed(lib.capkv_unpin(ctx, 9, 0, 8), False, "seq_id = 9")
failed(lib.capkv_pin(ctx, 0, 8, 8), False, "pin [8, 8)")
failed(lib.capkv_get_pins(NULL, 0, NULL, 0), -1, none)
failed(lib.capkv_get_pins(ctx, -1, NULL, 0), -1, "seq_id = -1")
one[0] = 5
failed(lib.capkv_focus(NULL, 0, one, 1), -1, none)
failed(lib.capkv_focus(ctx, 9, one, 1), -1, "seq_id = 9")
failed(lib.capkv_focus(ctx, 0, NULL, 1), -1, "focus: tokens: NULL is not allowed")
failed(lib.capkv_focus(ctx, 0, one, -1), -1, "focus: -1 tokens: allowed is 1 or more")
one[0] = -7
failed(lib.capkv_focus(ctx, 0, one, 1), -1, "focus: token = -7: allowed is 0 to 258")
failed(lib.capkv_unfocus(NULL, 0), False, none)
failed(lib.capkv_unfocus(ctx, -1), False, "seq_id = -1")
failed(lib.capkv_n_focus(NULL, 0), -1, none)
failed(lib.capkv_n_focus(ctx, 4), -1, "seq_id = 4")
assert (lib.capkv_n_focus(ctx, 0), lib.capkv_n_focus_max(NULL), lib.capkv_n_focus_max(ctx)) == (0, 0, 30)
failed(lib.capkv_compress(NULL, 0, 0), -1, none)
failed(lib.capkv_compress(ctx, -1, 0), -1, "seq_id = -1")
failed(lib.capkv_compress(ctx, 2**31 - 1, 0), -1, "seq_id = 2147483647")
failed(lib.capkv_compress(ctx, 0, 5), -1, "compress: budget = 5")
assert lib.capkv_compress(ctx, 0, 2**32 - 1) == 0
failed(lib.capkv_can_compress(NULL, 0, 0), False, none)
failed(lib.capkv_can_compress(ctx, 9, 0), False, "seq_id = 9")
failed(lib.capkv_can_compress(ctx, 0, 5), False, "compress: budget = 5")
assert lib.capkv_can_compress(ctx, 0, 0) and lib.capkv_can_compress(ctx, 0, 2**32 - 1)
assert lib.capkv_get_layers(NULL, one, 1) == 0
for n_max in (-1, 0, 1, 2**31 - 1):
    assert lib.capkv_get_layers(ctx, NULL, n_max) == 2
    assert lib.capkv_get_capacity(ctx, 0, NULL, n_max) == 2
    assert lib.capkv_get_positions(ctx, 0, 0, 0, NULL, n_max) > 64
assert lib.capkv_get_layers(ctx, one, -1) == 2 and lib.capkv_get_positions(ctx, 0, 0, 0, one, -1) > 64 and one[0] == -7
failed(lib.capkv_get_capacity(NULL, 0, out, 1), -1, none)
failed(lib.capkv_get_capacity(ctx, -2, out, 1), -1, "seq_id = -2")
assert [lib.capkv_n_head_kv(c, il) for c, il in ((NULL, 0), (ctx, -1), (ctx, 2), (ctx, 1))] == [0, 0, 0, 2]
failed(lib.capkv_get_scores(NULL, 0, out, 1), -1, none)
failed(lib.capkv_get_scores(ctx, 9, out, 1), -1, "seq_id = 9")
n_scores = lib.capkv_get_scores(ctx, 0, NULL, 2**31 - 1)
assert n_scores == 4 * lib.capkv_get_positions(ctx, 0, 0, 0, NULL, 0)
out[0], out[1] = -7, -7
assert [lib.capkv_get_scores(ctx, 0, out, n) for n in (-1, 0)] == [n_scores] * 2 and out[0] == -7
assert lib.capkv_get_scores(ctx, 0, out, 1) == n_scores and out[0] != -7 and out[1] == -7
assert lib.capkv_get_scores(ctx, 1, out, 64) == 0
failed(lib.capkv_get_positions(NULL, 0, 0, 0, one, 1), -1, none)
failed(lib.capkv_get_positions(ctx, 9, 0, 0, one, 1), -1, "seq_id = 9")
failed(lib.capkv_get_positions(ctx, 0, 2, 0, one, 1), -1, "layer = 2")
failed(lib.capkv_get_positions(ctx, 0, 0, -1, one, 1), -1, "head = -1: allowed is 0 to 1")
failed(lib.capkv_get_rope_positions(ctx, 9, 0, 0, one, 1), -1, "seq_id = 9")

for args in ((NULL, p, score_input(), out), (b"CPU", NULL, score_input(), out), (b"CPU", p, NULL, out), (b"CPU", p, score_input(), NULL)):
    failed(lib.capkv_score(*args), False, "NULL is not allowed")
failed(lib.capkv_rpc_devices(NULL, NULL, 0), -1, "NULL is not allowed")
failed(lib.capkv_rpc_devices(b"nowhere", NULL, 0), -1, "rpc_servers = nowhere: allowed is HOST:PORT")
failed(lib.capkv_score(b"GPU9", p, score_input(), out), False, "device = GPU9: allowed is one of")
failed(lib.capkv_score(b"CPU", default(tau=-1), score_input(), out), False, "kv_tau = -1")
for wrong, words in [
    (dict(n=0), "n = 0"), (dict(n_head=-1), "n_head = -1"), (dict(n_head=3), "n_head = 3"), (dict(n_head_kv=0), "n_head_kv = 0"),
    (dict(d_k=0), "d_k = 0"), (dict(d_v=-4), "d_v = -4"), (dict(k=NULL), "k and v"), (dict(v=NULL), "k and v"),
    (dict(q=score_input().k, n_q=0), "n_q = 0"), (dict(rope_type=0, n_rot=3), "n_rot = 3"), (dict(rope_type=2, n_rot=8), "n_rot = 8"),
    (dict(rope_type=77, n_rot=4), "rope_type = 77"), (dict(rope_type=8, n_rot=4), "rope_type = 8"), (dict(rope_type=-2), "rope_type = -2"),
    (dict(n=2**31 - 1, d_k=2**20), "out of memory"),
]:
    failed(lib.capkv_score(b"CPU", p, score_input(**wrong), out), False, words)
assert lib.capkv_score(b"CPU", default(policy=b"knorm"), score_input(), out), _lib.last_error()

# and all is as it was
assert len(context.go_on(40)[0]) == 40
context.close()
"""


def test_wrong_arguments_are_refused_and_end_nothing(tiny_llama):
    done = run(CALLS, tiny_llama)
    assert done.returncode == 0, done.stderr


def test_every_function_is_called_with_wrong_arguments():
    declared = set(re.findall(r"\b(capkv_\w+)\(", re.sub(r"//.*", "", _lib._declarations(_lib._find()[1]))))
    called = set(re.findall(r"\b(capkv_\w+)\(", PRELUDE + CALLS + "capkv_last_error()"))
    assert len(declared) > 15 and declared == called


# --- numbers ---


def test_the_defaults_of_the_table_are_those_of_the_struct():
    ffi, lib = _lib.load()
    for i in range(lib.capkv_n_options()):
        option = lib.capkv_get_option(i)
        params, default = (ffi.new("struct capkv_params *", lib.capkv_default_params()) for _ in range(2))
        assert lib.capkv_params_set(params, option.name, option.default_value)
        if ffi.string(option.name) == b"recent":  # the struct's default follows a small budget
            assert (params.n_recent, default.n_recent) == (64, 2**32 - 1)
            params.n_recent = default.n_recent
        assert ffi.buffer(params)[:] == ffi.buffer(default)[:], ffi.string(option.name)


@pytest.fixture(scope="module")
def decimal_comma(tmp_path_factory):
    """Environment in which there is a locale de_DE.UTF-8, made here; skips where it cannot be made."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        pytest.skip("no program localedef to make a locale with a decimal comma")
    done = subprocess.run(
        ["localedef", "-f", "UTF-8", "-i", "de_DE", folder / "de_DE.UTF-8"], capture_output=True, text=True
    )
    if not (folder / "de_DE.UTF-8" / "LC_NUMERIC").is_file():
        pytest.skip(f"localedef cannot make a locale with a decimal comma: {done.stderr.strip()[-200:]}")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.UTF-8"}


IN_LOCALE = """
import locale
locale.setlocale(locale.LC_ALL, "")
assert locale.localeconv()["decimal_point"] == ","
import llama_cpp
"""


def test_a_decimal_comma_leaves_contexts_without_a_budget_alone(decimal_comma, tiny_llama):
    code = IN_LOCALE + """
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
ctx = llama_cpp.llama_init_from_model(model, llama_cpp.llama_context_default_params())
assert ctx, _lib.last_error()
"""
    done = run(code, tiny_llama, **decimal_comma)
    assert done.returncode == 0, done.stderr


def test_a_decimal_comma_leaves_the_options_alone(decimal_comma, tiny_llama):
    code = IN_LOCALE + """
p = default()
assert (p.tau, p.novelty) == (5.0, 0.25)
for name, text in (("tau", b"1.5"), ("novelty", b"2.5e-1"), ("budget", b"0.5GiB"), ("budget", b"12.5%")):
    assert lib.capkv_params_set(p, name.encode(), text), _lib.last_error()
assert (p.tau, p.novelty, p.budget_share) == (1.5, 0.25, 0.125)
failed(lib.capkv_params_set(p, b"tau", b"1,5"), False, "kv_tau = 1,5: allowed is 0 to 100")
failed(lib.capkv_params_check(default(tau=100.5)), False, "kv_tau = 100.5: allowed")
failed(lib.capkv_params_check(default(budget_share=1.005)), False, "kv_budget = 100.5%: allowed")
context = Context(sys.argv[1])
context.read([3 + i % 250 for i in range(400)])
context.close()
"""
    done = run(code, tiny_llama, LLAMA_ARG_KV_TAU="2.5", **decimal_comma)
    assert done.returncode == 0, done.stderr
