"""Options of llama-server next to a budget: what is resolved says so, what cannot be is refused in one clear line."""

import re

import pytest
import tiny_archs
import tiny_models
from driving import text
from llama_server import run_to_end

BUDGET = ("--kv-budget", 128)


def slots(server) -> list:
    return server.get("/slots")["list"]


@pytest.mark.parametrize(
    ("options", "n_slots", "n_ctx"),
    [
        (("-np", -1), 4, 2048),
        (("-np", 3, "--kv-unified"), 3, 2048),
        (("-np", 2, "--no-kv-unified"), 2, 1024),
        (("-np", 2), 2, 1024),
        (("-np", 1, "--kv-unified"), 1, 2048),
        (("-np", 2, "--kv-unified-per-slot", 512, "--kv-unified"), 2, 512),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_each_slot_has_cells_of_its_own_and_the_context_that_was_asked_for(serve, options, n_slots, n_ctx):
    server = serve(*BUDGET, "-c", 2048, *options)
    assert [slot["n_ctx"] for slot in slots(server)] == [n_ctx] * n_slots
    log = server.log()
    assert f"KV budget: 128 tokens kept (capkv), {n_slots} slots with 256 cells each" in log
    assert "kv_unified = 'false'" in log
    for slot in range(n_slots):
        assert len(server.complete(text(400, seed=slot), n=40, slot=slot)["tokens"]) == 40
    # one slot's request has not taken the others' cells
    for slot in range(n_slots):
        history = text(400, seed=slot)
        answer = server.complete(history, n=1, slot=slot)
        assert answer["timings"]["cache_n"] == len(history) - 1


@pytest.mark.parametrize(
    ("options", "env", "kinds"),
    [
        (BUDGET, {}, "K (q8_0), V (q8_0)"),
        ((*BUDGET, "-ctk", "f16"), {}, "K (f16), V (f16)"),
        ((*BUDGET, "--cache-type-v", "f16"), {}, "K (f16), V (f16)"),
        ((*BUDGET, "-ctk", "q4_0"), {}, "K (q4_0), V (f16)"),
        ((*BUDGET, "--kv-type", "q5_1"), {}, "K (q5_1), V (q5_1)"),
        (BUDGET, {"LLAMA_ARG_CACHE_TYPE_K": "f16"}, "K (f16), V (f16)"),
        ((), {"LLAMA_ARG_KV_BUDGET": "128"}, "K (q8_0), V (q8_0)"),
        ((), {}, "K (f16), V (f16)"),
    ],
    ids=str,
)
def test_the_cells_have_the_type_that_was_given_or_that_of_the_budget(serve, options, env, kinds):
    log = re.sub(r": +[\d.]+ MiB", "", serve(*options, "-c", 512, "-np", 1, env=env).log())
    assert kinds in log


def test_without_a_budget_the_cache_stays_unified(serve):
    log = serve("-c", 2048, "-np", -1).log()
    assert "KV budget" not in log and "kv_unified = 'true'" in log


def test_a_server_that_slept_comes_back_with_the_same_slots(serve):
    server = serve(*BUDGET, "-c", 2048, "-np", -1, "--sleep-idle-seconds", 1)
    first = server.complete(text(500), n=30)["tokens"]
    for _ in range(600):
        if "entering sleeping state" in server.log():
            break
        server.pause(0.05)
    assert server.complete(text(500), n=30)["tokens"] == first
    assert [slot["n_ctx"] for slot in slots(server)] == [2048] * 4


def test_shift_and_chunk_reuse_are_off_and_say_so(serve):
    server = serve(*BUDGET, "-c", 512, "--context-shift", "--cache-reuse", 32)
    log = server.log()
    assert "KV cache shifting is not supported for this context" in log
    assert "cache_reuse is not supported by this context" in log
    # a context that is full ends the reply
    answer = server.complete(text(400), n=1000)
    assert answer["stop_type"] == "limit" and answer["truncated"] and len(answer["tokens"]) == 512 - 400
    # and a chunk that has moved is read anew
    moved = server.complete(text(400)[200:], n=8, n_cache_reuse=32)
    assert moved["timings"]["cache_n"] == 0


def test_a_prompt_longer_than_the_context_is_refused_and_the_slot_stays_usable(serve):
    server = serve(*BUDGET, "-c", 512)
    refused = server.post("/completion", prompt=text(600), n_predict=4)
    assert refused.status == 400 and "exceeds the available context size" in refused["error"]["message"]
    assert len(server.complete(text(400), n=8)["tokens"]) == 8


@pytest.mark.parametrize("options", [("--cache-ram", 0), ("--cache-ram", 100), ("--cache-ram", -1), ("-ctk", "q8_0", "-ctv", "q8_0")])
def test_conversations_in_turn_on_fewer_slots_are_all_answered(serve, options):
    server = serve(*BUDGET, "-np", 2, "-c", 8192, *options)
    alone = {n: server.complete(text(500, seed=n), n=20, slot=-1)["tokens"] for n in range(4)}
    for n in range(4):
        history = text(500, seed=n) + alone[n]
        answer = server.complete(history + text(10, seed=9), n=20, slot=-1)
        assert len(answer["tokens"]) == 20
        assert answer["timings"]["cache_n"] + answer["timings"]["prompt_n"] == len(history) + 10


REFUSED = [
    (("--kv-budget", "x"), "kv_budget = x: allowed is 0 (off), a number of tokens"),
    (("--kv-budget", "-5"), "kv_budget = -5: allowed is"),
    (("--kv-budget", "99999999999"), "kv_budget = 99999999999: allowed is"),
    (("--kv-budget", "101%"), "kv_budget = 101%: allowed is above 0% and at most 100%"),
    (("--kv-budget", "3"), "kv_budget = 3: allowed is 0 (off) or at least kv_sink + kv_recent + 1 = 9"),
    ((*BUDGET, "--kv-policy", "foo"), "kv_policy = foo: allowed is one of capkv"),
    ((*BUDGET, "--kv-sink", "70"), "kv_budget = 128: allowed is 0 (off) or at least kv_sink + kv_recent + 1 = 135"),
    ((*BUDGET, "--kv-headroom", "3"), "kv_headroom = 3: allowed is at least n_batch = 2048"),
    ((*BUDGET, "--kv-tau", "nan"), "kv_tau = nan: allowed is 0 to 100"),
    ((*BUDGET, "-fa", "off"), "flash attention = off: allowed with kv_budget is on or auto"),
]


@pytest.mark.parametrize(("options", "line"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_value_ends_the_start_with_its_line(tiny_llama, options, line):
    done = run_to_end(tiny_llama, *options)
    assert done.returncode == 1
    assert said(done, line)


def said(done, line: str) -> bool:
    """Of what the server wrote, one line has it (or two: the memory estimate that comes first meets the same refusal)."""
    return 1 <= sum(line in written for written in done.stdout.splitlines()) <= 2


def test_a_wrong_value_in_the_environment_names_its_variable(tiny_llama):
    done = run_to_end(tiny_llama, env={"LLAMA_ARG_KV_BUDGET": "lots"})
    assert done.returncode == 1
    assert said(done, 'environment variable "LLAMA_ARG_KV_BUDGET": kv_budget = lots: allowed is')


@pytest.mark.parametrize(
    ("name", "why"), [("bert", "its attention is not causal"), ("mamba", "a recurrent model has no KV cache")]
)
def test_a_model_that_cannot_have_a_budget_is_refused_by_its_architecture(tmp_path, name, why):
    model = tmp_path / f"{name}.gguf"
    getattr(tiny_models, f"write_{name}")(model)
    done = run_to_end(model, *BUDGET)
    assert done.returncode == 1
    assert said(done, f"kv_budget is not possible for the architecture '{name}': {why}")


SAID = {"option": (("--kv-untested",), {}), "environment": ((), {"LLAMA_ARG_KV_UNTESTED": "1"})}


@pytest.mark.parametrize(("options", "env"), SAID.values(), ids=SAID)
def test_an_architecture_that_was_never_tried_runs_when_that_is_said(serve, tmp_path, options, env):
    model = tmp_path / "untried.gguf"
    tiny_archs.write_untried(model)
    for given in ({}, {"LLAMA_ARG_KV_UNTESTED": "0"}):
        done = run_to_end(model, *BUDGET, env=given)
        assert done.returncode == 1
        assert said(done, "architecture 'pockettts': not tried yet; --kv-untested runs it")
    server = serve(*options, *BUDGET, model=model, env=env)
    assert len(server.complete(text(400), n=30)["tokens"]) == 30
