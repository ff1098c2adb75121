"""What the cache still holds of a conversation: /kept shades its text, /why says of some words where they stand and who holds them."""

import codecs
import re

import numpy as np

COMMANDS = {
    "/kept N": "the last N messages, shaded by the share of KV heads that still hold each token; without N, all",
    "/why WORDS": "where these words stand in the conversation, and how many KV heads hold them",
}

_FEW, _N_FOLD = 0.05, 40  # runs of more tokens than this that less of the heads hold are folded
_N_FOUND, _N_AROUND = 8, 12  # places that /why shows, and tokens around each


def _no_budget(talk) -> None:
    if talk.stats() is None:
        raise ValueError("there is no budget: nothing is evicted, every head holds every token")


def pieces(talk, begin: int, end: int, shares: np.ndarray) -> list:
    """[(text, share)] of some tokens, those of the same share joined. Tokens that are parts of one character count as the least of them.

    Args:
        shares: of all tokens of the conversation, float32 [n_tokens].
    """
    found, data, share = [], b"", 1.0
    for position, token in enumerate(talk.llm.input_ids[begin:end].tolist(), start=begin):
        share = min(share, float(shares[position])) if data else float(shares[position])
        data += talk.piece(token)
        if _is_cut(data) and position + 1 < end:
            continue
        text, data = data.decode("utf-8", "replace"), b""
        if found and found[-1][1] == share:
            found[-1] = (found[-1][0] + text, share)
        elif text:
            found.append((text, share))
    return found


def _is_cut(data: bytes) -> bool:
    """Whether bytes end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return bool(decoder.getstate()[0])


def _runs(shares: np.ndarray, begin: int, end: int) -> list:
    """[(begin, end, whether it is folded)] of the range, in order."""
    few = np.concatenate([[False], shares[begin:end] < _FEW, [False]])
    edges = (np.flatnonzero(few[1:] != few[:-1]) + begin).tolist()
    found, at = [], begin
    for first, last in zip(edges[::2], edges[1::2]):
        if last - first > _N_FOLD:
            found += [(at, first, False), (first, last, True)]
            at = last
    return [run for run in [*found, (at, end, False)] if run[0] < run[1]]


def shaded(talk, n_last: int = 0) -> list:
    """[(title, [(text, share)])] of the last messages, of all with 0. A share is None for a remark in place of text.

    Raises:
        ValueError: there is no budget, or nothing was said.
    """
    _no_budget(talk)
    messages = talk.messages[-n_last:]
    if not messages:
        raise ValueError("nothing was said yet")
    shares, found = talk.llm.kv_kept(), []
    ends = [message.header for message in talk.messages[1:]] + [talk.n_tokens]
    for message, end in zip(messages, ends[-len(messages) :]):
        begin, parts = message.content, []
        for first, last, is_folded in _runs(shares, min(begin, end), end):
            if is_folded:
                parts.append((f"[{last - first:,} tokens, held by {shares[first:last].mean():.0%} of the heads]", None))
            else:
                parts += pieces(talk, first, last, shares)
        mean = f"{shares[begin:end].mean():.0%}" if begin < end else "nothing"
        found.append((f"{message.who}, positions {begin:,} to {max(end - 1, begin):,}, held by {mean} of the heads on average", parts))
    return found


def _places(talk, words: str) -> list:
    """[(begin, end)] of the tokens in which these words stand, one after another, whatever their case and the space between them."""
    data = [talk.piece(token) for token in talk.llm.input_ids[: talk.n_tokens].tolist()]
    ends = np.cumsum([0, *map(len, data)])
    text = b"".join(data).decode("utf-8", "surrogateescape")
    pattern = r"\s+".join(map(re.escape, words.split()))
    found = []
    for match in re.finditer(pattern, text, re.IGNORECASE):
        first, last = (len(text[:at].encode("utf-8", "surrogateescape")) for at in match.span())
        found.append((int(np.searchsorted(ends, first, "right")) - 1, int(np.searchsorted(ends, last, "left"))))
    return found


def _state(talk, stats, begin: int, end: int) -> str:
    if any(start <= begin and end <= stop for start, stop in talk.pins.ranges):
        return "pinned"
    if begin >= stats.pos_tail:
        return "in the exact tail"
    return "among the sinks" if end <= stats.config.sink else "in the middle, where each head has its own choice"


def places(talk, words: str) -> list:
    """[(title, [(text, share)])] for each place where the words stand, the last ones first.

    Raises:
        ValueError: there is no budget, or the words do not stand in the conversation.
    """
    _no_budget(talk)
    if not words.split():
        raise ValueError("/why needs words that were said: /why WORDS")
    found = _places(talk, words)
    if not found:
        raise ValueError(f"nowhere in the conversation: {words}")
    stats, shares, heads = talk.stats(), talk.llm.kv_kept(), talk.heads()
    shown = []
    for begin, end in found[: -_N_FOUND - 1 : -1]:
        n_all = sum(bool(np.isin(np.arange(begin, end), held).all()) for held in heads)
        who = next((message.who for message in reversed(talk.messages) if message.header <= begin), "the system prompt")
        if talk.messages and begin < talk.messages[0].content:
            who = "the system prompt"
        place = f"position {begin:,}" if end == begin + 1 else f"positions {begin:,} to {end - 1:,}"
        title = f"{place} ({who}): {n_all:,} of {len(heads):,} KV heads hold all of it, {shares[begin:end].mean():.0%} on average; "
        parts = pieces(talk, max(begin - _N_AROUND, 0), min(end + _N_AROUND, talk.n_tokens), shares)
        shown.append((title + _state(talk, stats, begin, end), parts))
    if len(found) > _N_FOUND:
        shown.append((f"and in {len(found) - _N_FOUND:,} places before", []))
    return shown


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns no lines, since the UI shades them. Raises ValueError where it cannot be done."""
    if name == "/why":
        chat.ui.shade(places(chat.talk, rest))
        return []
    if rest and not (rest.isdecimal() and int(rest) > 0):
        raise ValueError(f"/kept {rest}: allowed is a number of messages, 1 or more")
    chat.ui.shade(shaded(chat.talk, int(rest or 0)))
    return []
