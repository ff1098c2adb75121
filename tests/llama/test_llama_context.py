"""The context of a Llama: flash attention, and an eviction that failed halfway."""

import pickle

import llama_cpp
import pytest
from driving import BUDGET, go_on, text

from capkv_edge import _lib


def test_flash_attention_is_left_to_llama_cpp_unless_it_is_asked_for(make_llama, tiny_llama):
    auto, on = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    for asked, kind in ((None, auto), (True, on)):
        llm = make_llama(tiny_llama, flash_attn=asked, **BUDGET)
        assert llm.context_params.flash_attn_type == kind
        copy = pickle.loads(pickle.dumps(llm))
        assert copy.context_params.flash_attn_type == kind and copy.kv_config == llm.kv_config
        copy.close()


def test_after_an_eviction_that_failed_halfway_all_tokens_are_dropped_and_an_error_says_so(make_llama, tiny_llama, monkeypatch):
    llm = make_llama(tiny_llama, **BUDGET)
    llm.eval(text(100))

    def emptied(batch):  # what the native library does when a device fails while cells move
        llama_cpp.llama_memory_seq_rm(llm._ctx.memory, 0, -1, -1)
        raise RuntimeError("llama_decode returned -3")

    with monkeypatch.context() as patch:
        patch.setattr(llm._ctx, "decode", emptied)
        patch.setattr(_lib, "last_error", lambda: "an eviction failed while cells moved: sequence 0 is empty now")
        with pytest.raises(RuntimeError, match="an eviction failed while cells moved.*: all 100 tokens were dropped"):
            llm.eval(text(32, seed=1))
    assert llm.n_tokens == 0
    fresh = make_llama(tiny_llama, **BUDGET)
    for one in (llm, fresh):
        one.eval(text(50))
    assert go_on(llm, 20) == go_on(fresh, 20)
