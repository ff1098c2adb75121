"""The text that ends a reply where a model has no token for it."""


def n_held(text: str, mark: str) -> int:
    """Length of the longest end of a text that may be the beginning of the mark."""
    return next(n for n in range(len(mark) - 1, -1, -1) if text.endswith(mark[:n]))


class Marker:
    """Cuts a stream of text before a marker. Text that may be the beginning of the marker is held back until that is known.
    `found` tells whether the marker came."""

    def __init__(self, text: str):
        self._text, self._held, self.found = text, "", False

    def feed(self, text: str) -> str:
        """The text that can be shown now: nothing behind the marker, nor what may be its beginning."""
        if not self._text or self.found:
            return "" if self.found else text
        shown, mark, _ = (self._held + text).partition(self._text)
        self.found = bool(mark)
        n = 0 if mark else n_held(shown, self._text)
        shown, self._held = shown[: len(shown) - n], shown[len(shown) - n :]
        return shown

    def flush(self) -> str:
        """The text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held
