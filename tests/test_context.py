"""Opening contexts: a budget is for the next context alone, and a context that is refused says why."""

import llama_cpp
import pytest
from raw_context import RawContext

from capkv_edge import CapkvConfig, _log
from capkv_edge.context import next_budget, open_context
from capkv_edge.kv import KvCache

SIZES = dict(n_ctx=512, n_batch=32, n_seq=1)
BUDGET = CapkvConfig(budget=64, recent=16)


@pytest.fixture
def opened(tiny_llama):
    """A context with a budget, whose model the tests open others on."""
    context = RawContext(tiny_llama, BUDGET, **SIZES)
    yield context
    context.close()


def budget_of(model, config):
    ctx = open_context(model, config, n_ctx=512, n_batch=32)
    try:
        found = KvCache(ctx).config
        return found and found.budget
    finally:
        llama_cpp.llama_free(ctx)


def test_a_config_that_is_off_is_off_whatever_the_environment_says(opened, monkeypatch):
    assert opened.kv.config.budget == 64
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "100")
    assert budget_of(opened.model, CapkvConfig()) is None


def test_a_budget_ends_with_its_block(opened):
    with pytest.raises(ZeroDivisionError), next_budget(BUDGET):
        _ = 1 / 0
    params = llama_cpp.llama_context_default_params()
    ctx = llama_cpp.llama_init_from_model(opened.model, params)
    assert KvCache(ctx).config is None
    llama_cpp.llama_free(ctx)


def test_a_refused_context_says_why_and_spares_the_next(opened):
    with pytest.raises(ValueError, match="^kv_headroom = 8: allowed is at least n_batch = 32"):
        budget_of(opened.model, CapkvConfig(budget=64, recent=16, headroom=8))
    assert budget_of(opened.model, BUDGET) == 64


def test_a_field_that_llama_cpp_does_not_have_is_refused(opened):
    with pytest.raises(TypeError, match="n_contexts: llama_context_params has no such field"):
        open_context(opened.model, BUDGET, n_contexts=1)


def test_an_interrupt_while_it_opens_frees_the_context(opened, monkeypatch):
    open_it, free, freed = llama_cpp.llama_init_from_model, llama_cpp.llama_free, []

    def interrupted(*args):
        _log._on_failure(KeyboardInterrupt, None, None)
        return open_it(*args)

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", interrupted)
    monkeypatch.setattr(llama_cpp, "llama_free", lambda ctx: (freed.append(ctx), free(ctx)))
    with pytest.raises(KeyboardInterrupt):
        open_context(opened.model, BUDGET, n_ctx=512, n_batch=32)
    assert len(freed) == 1
