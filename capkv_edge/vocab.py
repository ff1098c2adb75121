"""A model's tokens, asked for through llama.cpp's C API."""

import ctypes
from typing import Any

import llama_cpp


class Vocab:
    """The vocabulary of a loaded model.

    Args:
        model: `llama_model *`, as llama_cpp has it. It must stay loaded for as long as this object is used.
    """

    def __init__(self, model: Any) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        bos, eos = llama_cpp.llama_vocab_bos(self._vocab), llama_cpp.llama_vocab_eos(self._vocab)
        self.bos = None if bos == -1 else bos  #: the token that begins a sequence
        self.eos = None if eos == -1 else eos  #: the token that ends one

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects `bos` in front of a text."""
        return self.bos is not None and llama_cpp.llama_vocab_get_add_bos(self._vocab)

    def is_eog(self, token: int) -> bool:
        """Whether the model ends its reply with this token."""
        return llama_cpp.llama_vocab_is_eog(self._vocab, token)

    def text(self, token: int | None) -> str:
        """A token as the vocabulary writes it, special tokens too; "" for None."""
        return "" if token is None else llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8")

    def tokens(self, text: bytes, special: bool) -> list[int]:
        """Token ids of a UTF-8 text, without `bos`. special: the text of a control token becomes that token.

        llama_cpp's own method takes twice as long for texts above the trained length, since it guesses their number of tokens.
        """
        size = len(text) + 1
        while True:
            found = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(self._vocab, text, len(text), found, size, False, special)
            if n >= 0:
                return found[:n]
            size = -n  # a vocabulary without a token for blanks may have three for each

    def piece(self, token: int) -> bytes:
        """What a token adds to a text: bytes, which may be a part of a character; nothing for a special token."""
        for size in (64, 4096):
            buffer = (ctypes.c_char * size)()
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
        return b""
