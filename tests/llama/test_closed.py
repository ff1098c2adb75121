"""Every call on a closed Llama raises an error that says so."""

import asyncio
import inspect

import pytest
from driving import BUDGET, text
from llama_methods import ARGUMENTS, METHODS

from capkv_edge import Llama


@pytest.mark.parametrize("name", [*METHODS, "ctx", "model", "kv_layers"])
def test_calling_a_closed_one(tiny_llama, name):
    llm = Llama(tiny_llama, verbose=False, n_threads=1, **BUDGET)
    llm.eval(text(100))
    llm.save_session("s")
    state = llm.save_state()
    llm.close()
    with pytest.raises(RuntimeError, match="^this Llama is closed$"):
        found = getattr(llm, name)
        done = found(*([state] if name == "load_state" else ARGUMENTS.get(name, [])))
        if inspect.isgenerator(done):
            next(done)
        if inspect.isasyncgen(done):
            asyncio.run(anext(done))
    llm.close()


def test_leaving_a_with_block(tiny_llama):
    with Llama(tiny_llama, verbose=False, n_threads=1, **BUDGET) as llm:
        llm.eval(text(10))
    with pytest.raises(RuntimeError, match="^this Llama is closed$"):
        llm.eval(text(10))


def test_closing_in_the_middle_of_a_stream(tiny_llama):
    llm = Llama(tiny_llama, verbose=False, n_threads=1, **BUDGET)
    stream = llm.create_completion(text(50), max_tokens=50, stream=True)
    next(stream)
    llm.close()
    with pytest.raises(RuntimeError, match="this Llama is closed"):
        list(stream)
