"""The type of K and V: q8_0 with a budget where none is given, and what a saved talk in another type says."""

import pickle

import pytest
import tiny_models
from driving import BUDGET, complete, text

from capkv_edge.config import CACHE_TYPES

F16, BF16, Q8_0, Q4_0 = (CACHE_TYPES[name] for name in ("f16", "bf16", "q8_0", "q4_0"))


def types(llm) -> tuple:
    """(type of K, type of V) as the context's parameters have them."""
    return llm.context_params.type_k, llm.context_params.type_v


def bytes_of_cells(llm) -> int:
    """Of K and V: 64 values of each, 34 bytes for 32 of them in q8_0."""
    stats = llm.kv_stats()
    return stats.bytes_kv // stats.n_cells // 2


@pytest.mark.parametrize(
    ("given", "kinds", "n_bytes", "name"),
    [
        ({}, (Q8_0, Q8_0), 2 * 68, "q8_0"),
        ({"kv_type": "q4_0"}, (Q4_0, Q4_0), 2 * 36, "q4_0"),
        ({"kv_type": "f16"}, (F16, F16), 2 * 128, "f16"),
        ({"type_k": F16}, (F16, F16), 2 * 128, "f16"),
        ({"type_v": F16, "kv_type": "q4_0"}, (F16, F16), 2 * 128, "f16"),
        ({"type_k": Q8_0}, (Q8_0, F16), 68 + 128, "q8_0"),
        ({"type_k": Q4_0, "type_v": Q8_0}, (Q4_0, Q8_0), 36 + 68, "q4_0"),
    ],
)
def test_a_given_type_is_taken_and_else_that_of_the_budget(make_llama, tiny_llama, given, kinds, n_bytes, name):
    llm = make_llama(tiny_llama, **BUDGET, **given)
    assert types(llm) == kinds and llm.kv_config.type == name
    assert bytes_of_cells(llm) == n_bytes
    llm.eval(text(300))
    assert llm.kv_stats().n_evictions > 0

    copy = pickle.loads(pickle.dumps(llm))
    assert types(copy) == kinds and bytes_of_cells(copy) == n_bytes
    copy.close()


def test_the_environment_may_name_it(make_llama, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_TYPE", "f16")
    assert types(make_llama(tiny_llama, **BUDGET)) == (F16, F16)
    assert types(make_llama(tiny_llama, **BUDGET, kv_type="q8_0")) == (Q8_0, Q8_0)
    assert types(make_llama(tiny_llama, **BUDGET, type_k=Q8_0, type_v=Q8_0)) == (Q8_0, Q8_0)


def test_without_a_budget_nothing_changes(make_llama, tiny_llama):
    assert types(make_llama(tiny_llama, n_ctx=256)) == (F16, F16)
    assert types(make_llama(tiny_llama, n_ctx=256, kv_type="q4_0")) == (F16, F16)


def test_heads_that_blocks_do_not_divide_leave_f16_and_the_log_says_so(make_llama, tmp_path, capfd):
    path = tmp_path / "narrow.gguf"
    tiny_models.write_llama(path, n_embd=64)  # 4 heads of 16
    llm = make_llama(path, **BUDGET, verbose=True)
    assert types(llm) == (F16, F16) and llm.kv_config.type == "f16"
    assert "K and V are in f16, not in q8_0: the heads of 16 are no multiple of its block of 32" in capfd.readouterr().err
    assert types(make_llama(path, **BUDGET, kv_type="bf16")) == (BF16, BF16)  # has no blocks


def test_a_session_in_f16_says_what_reads_it(make_llama, tiny_llama, tmp_path):
    old, path = make_llama(tiny_llama, **BUDGET, type_k=F16, type_v=F16), tmp_path / "old.session"
    old.eval(text(300))
    old.save_session(path)
    said = (
        r"its K and V are f16 and f16, here they are q8_0 and q8_0: --cache-type-k f16 --cache-type-v f16 of capkv-chat "
        r"\(type_k=1, type_v=1 in Python\) reads it"
    )
    with pytest.raises(ValueError, match=said):
        make_llama(tiny_llama, **BUDGET).load_session(path)
    again = make_llama(tiny_llama, **BUDGET, type_k=F16)
    again.load_session(path)
    assert again.n_tokens == 300


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "its keys are f16, here they are q8_0: a context with --cache-type-k f16 --cache-type-v f16 "),
        ({"type_k": F16, "type_v": Q8_0}, "its values are f16, here they are q8_0: a context with --cache-type-k f16 --cache-type-v f16 "),
    ],
)
def test_a_state_in_f16_says_what_reads_it(make_llama, tiny_llama, given, said):
    old = make_llama(tiny_llama, **BUDGET, kv_type="f16")
    old.eval(text(300))
    other = make_llama(tiny_llama, **BUDGET, **given)
    want = complete(other, text(50))
    with pytest.raises(ValueError, match=said):
        other.load_state(old.save_state())
    assert complete(other, text(50)) == want
