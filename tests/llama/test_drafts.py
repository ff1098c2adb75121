"""Drafts that are longer than a batch."""

import pickle

import numpy as np
import pytest
from driving import complete, text
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


class Long:
    """Drafts the same 50 tokens each time, whatever was said."""

    width = 50

    def __call__(self, input_ids, /, **options):
        return np.full(self.width, 7, dtype=np.intc)


@pytest.mark.parametrize("n_batch", [1, 8, 32])
@pytest.mark.parametrize("options", [dict(kv_budget=100), dict(kv_budget=0, n_ctx=512)], ids=["budget", "none"])
def test_a_draft_longer_than_a_batch_is_cut(make_llama, tiny_llama, n_batch, options):
    want = complete(make_llama(tiny_llama, n_batch=n_batch, flash_attn=True, **options), text(60))
    for draft in (Long(), LlamaPromptLookupDecoding(num_pred_tokens=50)):
        llm = make_llama(tiny_llama, n_batch=n_batch, draft_model=draft, flash_attn=True, **options)
        assert complete(llm, text(60)) == want
        llm.close()


def test_the_draft_model_is_the_one_that_was_given(make_llama, tiny_llama):
    llm = make_llama(tiny_llama, kv_budget=100, n_batch=8, draft_model=Long())
    assert llm.draft_model.width == 50 and len(llm.draft_model(text(5))) == 7
    llm.draft_model = llm.draft_model
    assert isinstance(pickle.loads(pickle.dumps(llm)).draft_model.model, Long)
    llm.draft_model = None
    assert llm.draft_model is None
