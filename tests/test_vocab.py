"""Vocab: what a model's special tokens are, and the bytes of the others."""

import pytest

from capkv_edge.vocab import Vocab


@pytest.fixture
def vocab(engine):
    return Vocab(engine.model.model)


def test_the_special_tokens_of_the_tiny_model(vocab):
    assert (vocab.bos, vocab.eos, vocab.adds_bos) == (1, 2, True)
    assert [vocab.text(token) for token in (None, 1, 2)] == ["", "<s>", "</s>"]
    assert [vocab.is_eog(token) for token in (1, 2, 100)] == [False, True, False]


@pytest.mark.parametrize("text", ["", "a", " naïve <s>, twice", "a b " * 5000])
@pytest.mark.parametrize("special", [False, True])
def test_tokens_are_those_of_llama_cpp(vocab, engine, text, special):
    assert vocab.tokens(text.encode(), special) == engine.model.tokenize(text.encode(), add_bos=False, special=special)


def test_pieces_are_bytes_and_special_tokens_have_none(vocab):
    assert [vocab.piece(token) for token in (1, 3 + ord("a"), 3 + 0xE9)] == [b"", b"a", b"\xe9"]


def test_a_model_that_puts_nothing_in_front(make_llama, demo_model):
    assert not Vocab(make_llama(demo_model, n_ctx=64).model).adds_bos
