"""Replies for a Llama with random weights: the bytes of the tiny models are their tokens."""


def script(llm, *replies):
    """Make the model give these replies, each with </s> at its end; returns the list of those that are left."""
    left = list(replies)

    def generate(tokens, **options):
        llm.options = options
        for char in left.pop(0).encode():
            yield char + 3
            llm.eval([char + 3])
        yield 2

    llm.generate = generate
    return left


def read_back(llm) -> str:
    """The text of all tokens that were read, control tokens written out."""
    special = {1: b"<s>", 2: b"</s>"}
    tokens = llm.input_ids[: llm.n_tokens].tolist()
    return b"".join(special.get(token) or bytes([token - 3]) for token in tokens).decode(errors="replace").replace("▁", " ")


def count_reads(llm) -> list:
    """A list to which each later eval() adds how many tokens it read."""
    read, eval = [], llm.eval

    def count(tokens):
        read.append(len(tokens))
        eval(tokens)

    llm.eval = count
    return read
