"""Short names of setups, and the options that make setups."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge import policies
from capkv_edge.bench.options import numbers, policy_names, setups, setups_of
from capkv_edge.bench.run.setups import N_BATCH_MAX, N_PAD, SHIFT, Setup
from capkv_edge.config import CACHE_TYPES

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}


@given(
    policy=st.sampled_from([*policies(), SHIFT]),
    budget=st.integers(70, 100_000),
    kind=st.sampled_from(list(CACHE_TYPES)),
    options=st.sampled_from(["", ",novelty=0", ",novelty=2.5,sink=8"]),
    recall=st.booleans(),
    pin=st.booleans(),
    oracle=st.booleans(),
)
def test_a_name_is_read_back_as_the_setup_that_has_it(policy, budget, kind, options, recall, pin, oracle):
    recall, pin, oracle = (has_it and policy != SHIFT for has_it in (recall, pin, oracle))
    setup = Setup.parse(f"{policy}@{budget}:{kind}{options}" + "+pin" * pin + "+oracle" * oracle + "+recall" * recall)
    assert Setup.parse(setup.name) == setup and (bool(setup.recall), setup.pin, setup.oracle) == (recall, pin, oracle)
    assert (setup.policy, setup.budget, setup.type) == (policy, budget, kind)


@pytest.mark.parametrize("name", ["full", *(kind for kind in CACHE_TYPES if kind != "f16")])
def test_full_caches_have_the_names_of_their_types(name):
    assert Setup.parse(name).name == name and not Setup.parse(name).on


@pytest.mark.parametrize(
    "name, n_threads, n_batch", [("full,threads=1", 1, 512), ("full,batch=32", None, 32), ("q8_0,threads=2,batch=64", 2, 64)]
)
def test_a_full_cache_may_be_read_otherwise_and_its_name_says_how(name, n_threads, n_batch):
    setup = Setup.parse(name)
    assert Setup.parse(setup.name) == setup and setup.name == name and setup != Setup() and setup.policy is None
    assert (setup.n_threads, setup.n_batch, setup.n_cells) == (n_threads, n_batch, 0)


@given(budget=st.integers(8, 100_000))
def test_the_cells_are_a_multiple_of_what_llama_cpp_pads_to_and_hold_the_budget_and_a_batch(budget):
    setup = Setup("capkv", budget)
    assert setup.n_cells == setup.budget + setup.n_batch
    assert setup.n_batch >= min(N_BATCH_MAX, max(32, budget // 4))
    assert setup.n_cells % N_PAD == 0 or setup.n_batch == N_BATCH_MAX


@given(n_ctx=st.integers(2048, 65536), kind=st.sampled_from(list(CACHE_TYPES)), other=st.sampled_from(list(CACHE_TYPES)))
def test_equal_bytes_are_never_more(n_ctx, kind, other):
    setup = Setup.parse(f"capkv@={kind}:{other}").for_context(n_ctx, BYTES.get)
    assert setup.n_cells * BYTES[other] <= n_ctx * BYTES[kind]
    assert (setup.n_cells + N_PAD) * BYTES[other] > n_ctx * BYTES[kind] or setup.n_batch == N_BATCH_MAX


@pytest.mark.parametrize(
    "name, says",
    [
        ("fill", "allowed is full"),
        ("full@12", "no policy 'full'"),
        ("q8_0:q4_0", "allowed is full"),
        ("full,threads=0", "'threads=0' is not what a full cache may have: threads=N of 1 to 512 or batch=N of 1 to 512"),
        ("full,novelty=0", "'novelty=0' is not what a full cache may have"),
        ("capkv@512,threads=1", "not OPTION=VALUE"),
        ("capkv@", "not a number of tokens"),
        ("capkv@0", "not a number of tokens"),
        ("capkv@-5", "not a number of tokens"),
        ("capkv@5", "budget"),
        ("capkv@=q9", "no cache type 'q9'"),
        ("capkv@512:q9", "no cache type 'q9'"),
        ("capkv@512,budget=3", "not OPTION=VALUE"),
        ("capkv@512,novelty", "not OPTION=VALUE"),
        ("capkv@512,novelty=many", "novelty"),
        ("capvk@512", "no policy 'capvk'"),
        ("capkv@512+memory", r"behind \+ allowed is pin, oracle, recall, or several of them"),
        ("capkv@512+", r"behind \+ allowed is pin, oracle, recall, or several of them"),
        ("capkv@512+recall+pin", r"behind \+ allowed is pin, oracle, recall, or several of them"),
        ("shift@512+pin", "with pin allowed is a policy"),
        ("q8_0+pin", "with pin allowed is a policy"),
        ("shift@512+oracle", "with oracle allowed is a policy"),
        ("full+oracle", "with oracle allowed is a policy"),
        ("shift@512+recall", "with recall allowed is full, a cache type or a policy"),
    ],
)
def test_a_wrong_part_is_named(name, says):
    with pytest.raises(ValueError, match=says):
        Setup.parse(name)


def test_recall_is_a_part_of_a_setup_and_of_its_rows():
    plain, more = Setup.parse("capkv@512"), Setup.parse("capkv@512+recall")
    assert more.fields == {**plain.fields, "setup": "capkv@512+recall", "recall": 256} and "recall" not in plain.fields
    assert Setup.parse("full+recall").name == "full+recall" and Setup.parse("q8_0+recall").type == "q8_0"


def test_a_pin_is_a_part_of_a_setup_and_of_its_rows():
    plain, more = Setup.parse("capkv@512"), Setup.parse("capkv@512+pin")
    assert more.fields == {**plain.fields, "setup": "capkv@512+pin", "pinned": True} and "pinned" not in plain.fields
    assert Setup.parse("capkv@512+oracle").fields == {**plain.fields, "setup": "capkv@512+oracle", "oracle": True}
    assert Setup.parse("capkv@512:q8_0,novelty=0+pin+recall").name == "capkv@512:q8_0,novelty=0+pin+recall"


def test_a_command_that_does_not_measure_recall_or_pins_refuses_them():
    given = SimpleNamespace(policy="capkv", budget="512", type="f16", setup="capkv@512+recall")
    assert [one.name for one in setups_of(given, retrieval=True)] == ["full", "capkv@512", "capkv@512+recall"]
    with pytest.raises(ValueError, match=r"setup = capkv@512\+recall: retrieval alone measures recall"):
        setups_of(given)
    given.setup = "capkv@512+pin"
    with pytest.raises(ValueError, match=r"setup = capkv@512\+pin: retrieval alone measures pins"):
        setups_of(given)
    given.setup = "capkv@512+oracle"
    with pytest.raises(ValueError, match=r"setup = capkv@512\+oracle: retrieval alone measures an oracle"):
        setups_of(given)


def test_a_text_too_short_for_equal_bytes_is_refused():
    with pytest.raises(ValueError, match="less than 256 cells"):
        Setup.parse("capkv@=q4_0").for_context(512, BYTES.get)


def test_each_policy_runs_at_each_budget_once_and_the_full_cache_first():
    found = [setup.name for setup in setups("capkv, shift,capkv", "256,512", "f16,q8_0", "q4_0;capkv@256")]
    assert found == ["full"] + [f"{p}@{b}{t}" for p in ("capkv", "shift") for b in (256, 512) for t in ("", ":q8_0")] + ["q4_0"]
    assert policy_names("all") == [*policies(), SHIFT]


@pytest.mark.parametrize("text", ["", "x", "5", "200", "10,x", "nan"])
def test_numbers_out_of_range_name_the_option(text):
    with pytest.raises(ValueError, match="--budget.*10 to 100"):
        numbers("--budget", text, least=10, most=100)
