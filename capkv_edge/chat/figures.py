"""What a conversation costs and holds, as lines to show, and as values for scripts."""

from dataclasses import asdict

from ..units import size
from .reasoning import divide

ENDS = {"length": "cut at --max-tokens", "context": "the context is full", "cut": "stopped"}
WAITED = 0.15  # a larger share of a reply's time without a CPU is shown; with nothing else running it is about 0.02


def cost_lines(talk) -> list:
    """The memory that the cache takes, for the start."""
    stats = talk.stats()
    if stats is None:
        return [f"no budget: the cache is a full one, for {talk.n_ctx:,} tokens, on {talk.device}"]
    config, n_system, n_full = stats.config, talk.pins.n_system, round(stats.bytes_full * stats.n_cells / stats.bytes_kv)
    stay = f"the first {config.sink}, the last {config.recent} and the system prompt ({n_system:,} tokens)" if n_system else ""
    stay = stay or f"the first {config.sink} and the last {config.recent}"
    end = "; the conversation has no end" if talk.n_ctx is None else ""
    return [
        f"budget: {config.budget:,} tokens per KV head; {stay} always stay",
        f"cache: {stats.n_cells:,} cells in {config.type}, {size(stats.bytes_kv + stats.bytes_obs)} on {talk.device}; "
        f"a full cache for {n_full:,} tokens would take {size(stats.bytes_full)}{end}",
    ]


def turn_line(talk) -> str:
    """The line under a reply: speed, cells, evictions."""
    turn, stats = talk.turn, talk.stats()
    parts = [f"{turn.n_reply / turn.t_reply:.1f} tokens/s" if turn.t_reply else "0 tokens"]
    if stats is None:
        parts.append(f"{talk.n_tokens:,} of {talk.n_ctx:,} tokens")
    else:
        parts.append(f"{stats.n_used:,} of {stats.n_cells:,} cells used (budget {stats.config.budget:,})")
        parts.append(f"{stats.n_evicted:,} of {stats.n_tokens:,} tokens evicted")
    if turn.end in ENDS:
        parts.append(ENDS[turn.end])
    if turn.waited > WAITED:
        fewer = f"; --threads {talk.n_threads - 1} may be faster" if talk.n_threads > 1 else ""
        parts.append(f"slow: for {turn.waited:.0%} of the time other programs had the CPU{fewer}")
    return " · ".join(parts)


def toolbar(talk) -> str:
    """The line below the input: a bar of the cells in use, and what is left of the context."""
    stats = talk.stats()
    if talk.n_ctx is None:
        left = f"{talk.n_tokens:,} tokens so far"
    else:
        left = f"{talk.n_ctx - talk.n_tokens:,} of {talk.n_ctx:,} positions left"
    if stats is None:
        return f" {left}"
    return f" cells {bar(stats)} {stats.n_used:,}/{stats.n_cells:,} · {stats.n_evicted:,} tokens evicted · {left}"


def bar(stats, width: int = 20) -> str:
    """The cells in use as a bar; a mark shows the budget, down to which an eviction empties it."""
    n_full, at = round(width * stats.n_used / stats.n_cells), round(width * stats.config.budget / stats.n_cells)
    cells = "█" * n_full + "░" * (width - n_full)
    return cells[:at] + "│" + cells[at:]


def stats_lines(talk) -> list:
    """All figures, for /stats."""
    stats = talk.stats()
    used = f"{talk.n_tokens:,} used, no end" if talk.n_ctx is None else f"{talk.n_tokens:,} of {talk.n_ctx:,} used"
    lines = [f"positions   {used}"]
    if stats is None:
        return [*lines, "budget      none: nothing is evicted"]
    config = stats.config
    return [
        *lines,
        f"cells       {stats.n_used:,} of {stats.n_cells:,} used (budget {config.budget:,} + headroom {config.headroom:,})",
        f"evicted     {stats.n_evicted:,} tokens by each KV head, in {stats.n_evictions:,} evictions "
        f"({stats.t_evict_us / 1e6:.2f} s)",
        f"capacity    {stats.capacity:.1%} retained by the last eviction "
        f"({min(stats.capacity_layers):.1%} to {max(stats.capacity_layers):.1%} by layer)",
        f"exact       every token from position {stats.pos_tail:,} on is held by every head",
        f"memory      {size(stats.bytes_total)}: K and V {size(stats.bytes_kv)}, query statistics {size(stats.bytes_obs)}, "
        f"positions {size(stats.bytes_pos)}, work {size(stats.bytes_work)}",
        f"full cache  {size(stats.bytes_full)}, {stats.compression:.1f} times as much",
        f"policy      {config.policy}, sink {config.sink}, recent {config.recent}, seed {config.seed}",
    ]


class Evictions:
    """What was evicted since the last look at a conversation.

    Args:
        talk: a Conversation. One that was read anew, or another one in its place, has counts of its own.
    """

    def __init__(self, talk):
        self._talk = talk
        self.look()

    def look(self) -> tuple | None:
        """(evictions, tokens, seconds) since the last look; None where nothing was evicted."""
        stats = self._talk.stats()
        now = (stats.n_evictions, stats.n_evicted, stats.t_evict_us / 1e6) if stats is not None else (0, 0, 0.0)
        before, self._before = getattr(self, "_before", (0, 0, 0.0)), now
        if now[0] < before[0]:
            before = (0, 0, 0.0)
        return tuple(b - a for a, b in zip(before, now)) if now[0] > before[0] else None


def evicted_line(talk, evicted: tuple) -> str:
    """The quiet line after evictions. evicted: what Evictions.look() gave."""
    n, n_tokens, seconds = evicted
    stats = talk.stats()
    return (
        f"evicted {n_tokens:,} tokens{f' in {n:,} evictions' if n > 1 else ''} ({seconds:.2f} s): each KV head holds "
        f"{stats.n_used:,} of {stats.n_tokens:,} now, all of them from position {stats.pos_tail:,} on"
    )


def kv_record(talk, evicted: tuple | None = None) -> dict | None:
    """What a cache with a budget holds, in tokens, as llama-server says it beside `usage`; None without a budget.

    Args:
        evicted: what Evictions.look() gave for the turn.
    """
    stats = talk.stats()
    if stats is None:
        return None
    n_evictions, _, seconds = evicted or (0, 0, 0.0)
    return {
        "budget": stats.config.budget,
        "held": stats.n_used,
        "evicted": stats.n_evicted,
        "tail": stats.n_tokens - stats.pos_tail,
        "capacity": stats.capacity,
        "pinned": sum(stop - start for start, stop in talk.pins.ranges),
        "evictions": n_evictions,
        "ms": 1000 * seconds,
        "reread": talk.turn.n_reread,
    }


def turn_record(talk, prompt: str, evicted: tuple | None) -> dict:
    """One turn with all its figures, as values for JSON. Times are in seconds, sizes in bytes."""
    turn, stats, found = talk.turn, talk.stats(), talk.recall.found
    reasoning, reply = divide(talk.messages[-1].text, talk.marks)
    return {
        "prompt": prompt,
        "reply": reply,
        "reasoning": reasoning,
        "end": turn.end,
        "n_read": turn.n_read,
        "t_read": turn.t_read,
        "n_reply": turn.n_reply,
        "t_reply": turn.t_reply,
        "tokens_per_second": turn.n_reply / turn.t_reply if turn.t_reply else None,
        "n_tokens": talk.n_tokens,
        "n_ctx": talk.n_ctx,
        "recalled": [{"begin": one.begin, "end": one.end, "text": one.text} for one in found.passages] if found else [],
        "kv": kv_record(talk, evicted),
        "cache": None if stats is None else {**asdict(stats), "config": stats.config.as_dict()},
    }
