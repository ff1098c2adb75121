"""All public methods of Llama that touch native memory, with arguments that they can be called with."""

import inspect

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
    create_completion_async=["a"],
    create_chat_completion_async=[[{"role": "user", "content": "a"}]],
    create_chat_completion_openai_v1=[[{"role": "user", "content": "a"}]],
    kv_heads=[0],
    kv_positions=[0, 0],
    pin=[0, 10],
    focus=["a"],
    save_session=["s"],
    load_session=["s"],
    load_state=None,
    rewind=[0],
)
# those that touch no native memory
HARMLESS = {"close", "set_cache", "set_seed", "logits_to_logprobs", "longest_token_prefix", "from_pretrained", "tokenizer"}
METHODS = [name for name, _ in inspect.getmembers(Llama, callable) if name == "__call__" or name[0] != "_" and name not in HARMLESS]
