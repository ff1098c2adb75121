"""Every call on a closed Llama raises an error that says so."""

import inspect

import pytest
from driving import BUDGET, text

from capkv_edge import Llama

ARGUMENTS = dict(
    tokenize=[b"a"],
    detokenize=[[5]],
    eval=[[5]],
    generate=[[5]],
    create_embedding=["a"],
    embed=["a"],
    create_completion=["a"],
    __call__=["a"],
    create_chat_completion=[[{"role": "user", "content": "a"}]],
    create_chat_completion_openai_v1=[[{"role": "user", "content": "a"}]],
    kv_heads=[0],
    kv_positions=[0, 0],
    pin=[0, 10],
    save_session=["s"],
    load_session=["s"],
    load_state=None,
    rewind=[0],
)
# those that touch no native memory
HARMLESS = {"close", "set_cache", "set_seed", "logits_to_logprobs", "longest_token_prefix", "from_pretrained", "tokenizer"}
METHODS = [name for name, _ in inspect.getmembers(Llama, callable) if name == "__call__" or name[0] != "_" and name not in HARMLESS]


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
    llm.close()


def test_closing_in_the_middle_of_a_stream(tiny_llama):
    llm = Llama(tiny_llama, verbose=False, n_threads=1, **BUDGET)
    stream = llm.create_completion(text(50), max_tokens=50, stream=True)
    next(stream)
    llm.close()
    with pytest.raises(RuntimeError, match="this Llama is closed"):
        list(stream)
