"""Commands about the budget: /budget evicts more at once, /policy says what another policy would mean."""

from ..command import number
from ..config import policies

COMMANDS = {
    "/budget N": "evict at once, down to N tokens per KV head; without N, show the budget",
    "/policy NAME": "what another policy would mean, and how to get it; without NAME, show this one",
}


def budget(talk, rest: str) -> list:
    """The lines of /budget. Raises ValueError for a budget that is not allowed."""
    stats = talk.stats()
    config = stats.config
    if not rest:
        return [f"budget {config.budget:,}: each KV head holds {stats.n_used:,} of {stats.n_tokens:,} tokens"]
    n = number(int, "/budget", rest.replace(",", ""), 1)
    n_dropped = talk.llm.compress(n)
    if not n_dropped:
        return [f"nothing to evict: each KV head holds {stats.n_used:,} tokens"]
    return [
        f"each KV head has dropped {n_dropped:,} tokens and holds {talk.stats().n_used:,} now; "
        f"later evictions happen when all {stats.n_cells:,} cells are used, down to {config.budget:,}"
    ]


def policy(talk, rest: str) -> list:
    """The lines of /policy. Raises ValueError for a policy that is not there."""
    config, known = talk.stats().config, policies()
    if not rest:
        return [f"policy {config.policy}: keeps {known[config.policy]}", f"others: {', '.join(known.keys() - {config.policy})}"]
    if rest not in known:
        raise ValueError(f"/policy {rest}: allowed is {', '.join(known)}")
    if rest == config.policy:
        return [f"{rest} is the policy of this conversation: it keeps {known[rest]}"]
    return [
        f"{rest} keeps {known[rest]}; the policy here is {config.policy}",
        "A cache has one policy: what it observes of the queries is its own, and what was evicted cannot be chosen anew.",
        f"With {rest} the conversation is read again from its text ({talk.n_tokens:,} tokens), and evictions choose otherwise:",
        f"  /save, /exit, and then: capkv-chat {talk.llm.model_path} --policy {rest} -c",
    ]


def command(chat, name: str, rest: str) -> list:
    """Carry out one of COMMANDS; returns the lines to show. Raises ValueError where it cannot be done."""
    if chat.talk.stats() is None:
        raise ValueError("there is no budget: nothing is evicted")
    return {"/budget": budget, "/policy": policy}[name](chat.talk, rest)
