"""CapkvConfig: what the native table declares is what Python takes, and errors name option, value and range."""

import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capkv_edge import CapkvConfig, Llama, policies
from capkv_edge.config import CACHE_TYPES, cache_type, options

N_TOO_MANY = 2**31


def test_options_are_those_of_the_design():
    assert list(options()) == ["budget", "policy", "sink", "recent", "headroom", "tau", "novelty", "reindex", "seed", "type", "untested"]
    assert {name: option.default for name, option in options().items()} == {
        "budget": "0",
        "policy": "capkv",
        "sink": "4",
        "recent": "64",
        "headroom": "auto",
        "tau": "5.0",
        "novelty": "0.25",
        "reindex": "auto",
        "seed": "1",
        "type": "q8_0",
        "untested": "0",
    }
    assert all(option.help and option.range for option in options().values())
    assert [name for name, option in options().items() if option.is_switch] == ["untested"]


def test_policies_have_a_line_of_help():
    assert {"capkv", "capkv-ref", "streaming", "random"} <= set(policies())
    assert all(text and "\n" not in text for text in policies().values())


def test_defaults_are_off():
    config = CapkvConfig()
    assert not config.on
    assert config.as_dict() == dict(
        budget=0, policy="capkv", sink=4, recent=64, headroom="auto", tau=5.0, novelty=0.25, reindex="auto", seed=1, type="q8_0", untested=0
    )


def test_a_switch_takes_true_and_false():
    assert [CapkvConfig(untested=value).untested for value in (True, False, "1", 0)] == [1, 0, 1, 0]
    assert CapkvConfig(untested=True).params.untested == 1


@pytest.mark.parametrize(
    "budget", [256, "256", "256MiB", "10%", "1.5GiB", "0.5%", "+256", "256.", "1e3", "2.5E+2", "1e2B", "5000000B", ".5MB"]
)
def test_budget_takes_tokens_memory_and_shares(budget):
    assert CapkvConfig(budget=budget).on


def test_none_is_the_default():
    assert CapkvConfig(budget=None, tau=None) == CapkvConfig()


@pytest.mark.parametrize("more", [{}, dict(sink=0), dict(sink=70), dict(recent=10), dict(sink=30, recent=0)], ids=str)
def test_the_least_budget_that_is_named_is_the_least(more):
    """Whatever too small a budget is given, the same number is named; it is accepted, and the one below it is not."""
    named = set()
    for budget in range(1, 400):
        try:
            CapkvConfig(budget=budget, **more)
            break
        except ValueError as err:
            named.add(int(str(err).rpartition(" = ")[2]))
    assert named in ({budget}, set()) and (named or budget == 1)


def test_a_share_that_is_too_small_is_told_the_same_least_budget(make_llama, tiny_llama):
    with pytest.raises(ValueError, match="kv_budget = 5: allowed is .* = 9$"):
        make_llama(tiny_llama, n_ctx=512, kv_budget="1%")


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("budget", 20, ["kv_budget = 20", "kv_sink + kv_recent + 1 = 69"]),
        ("budget", -1, ["kv_budget = -1", "0 (off)"]),
        ("budget", "many", ["kv_budget = many", "256MiB"]),
        ("budget", "", ["kv_budget = ''"]),
        ("budget", True, ["kv_budget = True"]),
        ("budget", 1.5, ["kv_budget = 1.5"]),
        ("budget", N_TOO_MANY, [f"kv_budget = {N_TOO_MANY}", "2147483648"]),
        ("budget", 10**30, ["kv_budget = 1000000000000000000000000000000"]),
        ("budget", "101%", ["kv_budget = 101%", "100%"]),
        ("budget", "-5MiB", ["kv_budget = -5MiB"]),
        ("budget", "100\0", [r"kv_budget = '100\x00'"]),
        ("policy", "best", ["kv_policy = best", "capkv-ref", "streaming"]),
        ("policy", "", ["kv_policy = ''"]),
        ("sink", -1, ["kv_sink = -1", "0 to 2147483647"]),
        ("sink", N_TOO_MANY, ["kv_sink = 2147483648"]),
        ("recent", "x", ["kv_recent = x"]),
        ("headroom", -3, ["kv_headroom = -3", "n_batch"]),
        ("tau", "nan", ["kv_tau = nan", "0 to 100"]),
        ("tau", 1e9, ["kv_tau = 1000000000.0"]),
        ("novelty", -0.5, ["kv_novelty = -0.5"]),
        ("type", "q9", ["kv_type = q9", "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0"]),
        ("type", "q8_0 ", ["kv_type = q8_0 "]),
        ("untested", 2, ["kv_untested = 2", "0 or 1"]),
        ("untested", "yes", ["kv_untested = yes"]),
        ("tau", "1,5", ["kv_tau = 1,5"]),
        ("tau", "0x1", ["kv_tau = 0x1"]),
        ("tau", "1e-400", ["kv_tau = 1e-400"]),
        ("tau", " 1", ["kv_tau =  1"]),
        ("budget", "1e999", ["kv_budget = 1e999"]),
        ("budget", "1EiB", ["kv_budget = 1EiB", "256MiB"]),
        ("budget", "256 MiB", ["kv_budget = 256 MiB"]),
        ("seed", 2**32, ["kv_seed = 4294967296", "4294967295"]),
    ],
)
def test_wrong_values_name_option_value_and_range(name, value, words):
    with pytest.raises(ValueError) as caught:
        CapkvConfig(**{"recent": 64, name: value})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_cache_types_have_ggmls_numbers():
    import ctypes

    import llama_cpp.llama_cpp as native

    name_of = native._lib.ggml_type_name
    name_of.restype = ctypes.c_char_p
    assert {name: name_of(cache_type(name, "--type")).decode() for name in CACHE_TYPES} == {name: name for name in CACHE_TYPES}


def test_unknown_option_is_a_type_error_that_lists_the_known():
    with pytest.raises(TypeError, match="unknown option kv_bugdet.*kv_budget"):
        CapkvConfig(bugdet=1)


@given(st.sampled_from(["budget", "policy", "sink", "recent", "headroom", "tau", "novelty", "seed"]), st.text(max_size=12))
def test_any_text_is_taken_or_refused_by_name(name, text):
    try:
        CapkvConfig(**{name: text})
    except ValueError as err:
        assert str(err).startswith("kv_")


@pytest.mark.parametrize("value", [0.1, 0.25, 1 / 3, 5, 99.999999, 1e-7, 16777217e-6, "2.5e-1"])
def test_a_number_is_read_as_the_shortest_that_stands_for_the_field(value):
    config = CapkvConfig(novelty=value)
    assert type(config.novelty) is float and repr(config.novelty) == str(np.float32(value))
    assert CapkvConfig(novelty=config.novelty).params.novelty == config.params.novelty


@pytest.mark.parametrize(
    "given, shown",
    [("256MiB", "256MiB"), ("1.5GiB", "1536MiB"), ("5MB", "5MB"), ("1000.9B", "1KB"), ("1e2", 100), ("10%", "10%"), ("0.70%", "0.7%")],
)
def test_a_budget_is_shown_in_the_unit_that_it_was_given_in(given, shown):
    assert CapkvConfig(budget=given).budget == shown


@given(st.floats(2**-13, 100, width=32))
def test_a_share_is_shown_as_a_text_that_gives_the_same_share(percent):
    config = CapkvConfig(budget=f"{percent}%")
    assert CapkvConfig(budget=config.budget).params.budget_share == config.params.budget_share


def test_a_copy_leaves_open_what_was_left_open():
    for config in (CapkvConfig(budget=60), CapkvConfig(budget=69, recent=64)):
        copy = pickle.loads(pickle.dumps(config))
        assert (copy, copy.params.n_recent, copy.params.n_headroom) == (config, config.params.n_recent, config.params.n_headroom)


def test_each_option_has_a_variable_of_its_name():
    assert all(option.env == f"LLAMA_ARG_KV_{name.upper()}" for name, option in options().items())


def test_llama_names_every_option_in_its_signature():
    keywords = inspect.signature(Llama).parameters
    assert {"model_path", "n_ctx", "type_k", "draft_model", *(f"kv_{name}" for name in options())} <= set(keywords)
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in keywords.values())
    assert "kv_sink: first tokens, always kept (default: 4; allowed: 0 to 2147483647)" in Llama.__init__.__doc__


def test_environment_fills_in_what_is_not_given(monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "300")
    monkeypatch.setenv("LLAMA_ARG_KV_SINK", "7")
    assert CapkvConfig.from_env().budget == 300
    config = CapkvConfig.from_env(budget=500)
    assert (config.budget, config.sink) == (500, 7)
    assert not CapkvConfig.from_env(budget=0).on
    assert CapkvConfig().sink == 4


def test_environment_errors_name_the_variable(monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_TAU", "hot")
    with pytest.raises(
        ValueError, match=r"kv_tau = hot: allowed is 0 to 100 \(from the environment variable LLAMA_ARG_KV_TAU\)"
    ):
        CapkvConfig.from_env(budget=100)


def test_is_immutable_comparable_and_picklable():
    config = CapkvConfig(budget=128, tau=2)
    with pytest.raises(AttributeError):
        config.budget = 1
    assert config == pickle.loads(pickle.dumps(config)) == eval(repr(config), {"CapkvConfig": CapkvConfig})
    assert hash(config) == hash(CapkvConfig(budget="128", tau="2"))
    assert config != CapkvConfig(budget=129, tau=2)
