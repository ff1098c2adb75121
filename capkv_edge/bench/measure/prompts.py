"""Prompts: texts of tasks as tokens, in the model's chat template."""

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate

from ...template import around_last, fold_system, message
from ..tasks.questions import Item, Text

_N_TEXTS = 16  # whose tokens are kept: all that are tried until one has the wanted length


class Reader:
    """Puts texts into the model's chat template, and counts their tokens."""

    def __init__(self, engine):
        self.engine = engine
        self.count = lru_cache(maxsize=None)(lambda text: len(engine.tokenize(text)))
        self._frame = lru_cache(maxsize=8)(self._render)
        self._tokens = lru_cache(maxsize=_N_TEXTS)(engine.tokenize)

    def _render(self, turns: tuple) -> tuple:
        messages = [message(role, text) for role, text in turns]
        try:
            before, after = around_last(self.engine.chat, messages)
        except ValueError:
            if not messages or messages[0]["role"] != "system":
                raise
            before, after = around_last(lambda messages: self.engine.chat(fold_system(messages)), messages)
        tokens, bos = self.engine.tokenize(before, special=True), self.engine.bos
        head = [bos] if bos is not None and tokens[:1] != [bos] else []
        return head + tokens, self.engine.tokenize(after, special=True)

    def prefix(self, text: Text) -> list:
        """All that is read before the question."""
        return self._frame(text.turns)[0] + self._tokens(text.prefix)

    def n_system(self, text: Text) -> int:
        """Length of the system prompt in tokens, with the template's text around it; 0 where the text has none."""
        if not text.turns or text.turns[0][0] != "system":
            return 0
        pairs = enumerate(zip(self._frame(text.turns[:1])[0], self.prefix(text)))
        return next((i for i, (alone, read) in pairs if alone != read), len(self._frame(text.turns[:1])[0]))

    def evidence(self, text: Text) -> list:
        """[(start, stop)] in the tokens of prefix(): those that hold the passages that have the answers, in whole or in part.

        Raises:
            ValueError: the tokens of the text are not the text.
        """
        pieces = [self.engine.piece(token) for token in self.prefix(text)]
        read, ends = b"".join(pieces), list(accumulate(map(len, pieces)))
        out = []
        for passage in text.evidence:
            at = read.find(passage.encode())
            if at < 0:
                raise ValueError(f"{self.engine.path.name}: its tokens of the text do not have {passage!r}, so there is no oracle")
            out.append((bisect_right(ends, at), bisect_left(ends, at + len(passage.encode())) + 1))
        return out

    def question(self, item: Item) -> list:
        return self.engine.tokenize(item.question)

    def asked(self, item: Item) -> list:
        """A question alone, up to where the answer begins: all that is known of it before the text."""
        before, after = self._frame(())
        return before + self.engine.tokenize(item.question.strip()) + after

    def opening(self, text: Text, item: Item) -> list:
        """What stands between the question and the answer."""
        return self._frame(text.turns)[1] + self.engine.tokenize(item.answer_prefix)

    def size(self, text: Text) -> int:
        """All tokens that the text takes with its longest question and answer."""
        asked = [len(self.question(item)) + len(self.opening(text, item)) + item.n_predict for item in text.items]
        return len(self.prefix(text)) + max(asked)
