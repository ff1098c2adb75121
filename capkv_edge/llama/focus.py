"""A question that is known before its text: it takes part in what is evicted of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _log
from ..template import ChatTemplate, Turns
from ..turns import changes_text, uses_native
from ..vocab import Vocab
from .parts import Parts


class Focus(Parts):
    """Mixed into Llama; needs its `metadata`, `model`, `kv_config`, `_drop_unread()`, and turns.Shared."""

    metadata: Any
    model: Any

    @changes_text
    def focus(self, question: str | Sequence[int] | None) -> int:
        """Let a question take part in each eviction of the text to come, in place of the question before; None: no question any more.

        The question is read behind the text and removed again, so it needs as many free cells as it has tokens. What was read stays as it
        is; read a token before the next one is sampled, also after an error. The queries of its newest tokens are held, at most a third
        of the policy's sample (30 of 90). Saved states and sessions hold them, going back and reset() leave them.

        Args:
            question: text, which is read as a turn of the user with the model's chat template around it, up to where the answer begins; or
                token ids, which are read as they are.

        Returns:
            How many queries are held, as `n_focus`.

        Raises:
            RuntimeError: without a budget.
            ValueError: a question without a token, a policy that keeps no sample of queries (those that have one are named), or too few
                free cells for the question; the message has the figures, and nothing has changed.
        """
        kv = self._kv
        if question is None:
            kv.unfocus()
            return 0
        tokens = self._asked(question) if isinstance(question, str) else list(question)
        if not tokens:
            raise ValueError(f"question = {question!r}: allowed is at least one token, or None")
        self._drop_unread()
        self._n_changes += 1
        self._has_logits = False
        n = kv.focus(tokens)
        _log.raise_interrupt()
        return n

    @property
    @uses_native
    def n_focus(self) -> int:
        """How many queries of a question are held; 0 without one. Raises RuntimeError without a budget."""
        return self._kv.n_focus()

    def _asked(self, question: str) -> list[int]:
        if not question:
            return []
        vocab, before, after = Vocab(self.model), "", ""
        if self.metadata.get("tokenizer.chat_template"):
            turns = Turns(ChatTemplate(self.metadata, vocab))
            before, after = turns.later if self.n_tokens else turns.first
        opening = vocab.tokens(before.encode(), special=True)
        begins = vocab.adds_bos and not self.n_tokens and opening[:1] != [vocab.bos]
        head = [vocab.bos] if begins and vocab.bos is not None else []
        asked = vocab.tokens(question.encode("utf-8", "replace"), special=False)
        return head + opening + asked + vocab.tokens(after.encode(), special=True)
