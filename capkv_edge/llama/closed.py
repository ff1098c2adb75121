"""What a Llama has in place of its model and context once it is closed, so that a call raises instead of using freed memory."""


class _Closed:
    def __getattr__(self, name):
        raise RuntimeError("this Llama is closed")


def mark(llm) -> None:
    """Take a Llama's references to native memory away."""
    for name in ("_ctx", "_model", "_batch", "tokenizer_"):
        setattr(llm, name, _Closed())
