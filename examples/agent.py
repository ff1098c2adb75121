"""An agent that never runs out of context: python examples/agent.py [MODEL] [--steps N] [--budget TOKENS]

It keeps a greenhouse at 20 degrees: each step it reads the thermometer and calls one of its tools, in JSON that a grammar holds it to.
Observations and calls are appended for as long as it runs. The rules are pinned, old steps are evicted, memory stays the same.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator

from capkv_edge import Llama  # before llama_cpp: it decides which llama.cpp is loaded
from capkv_edge.template import ChatTemplate, Turns
from capkv_edge.vocab import Vocab
from llama_cpp import LlamaGrammar

RULES = """You keep a greenhouse at 20 degrees. You are told the temperature and answer with one call of a tool, in JSON.
Below 19 degrees: {"tool": "heat", "minutes": 5}
From 19 to 21 degrees: {"tool": "wait", "minutes": 5}
Above 21 degrees: {"tool": "cool", "minutes": 5}"""

CALL = {
    "type": "object",
    "properties": {"tool": {"enum": ["heat", "wait", "cool"]}, "minutes": {"enum": [1, 5, 10]}},
    "required": ["tool", "minutes"],
}


class Greenhouse:
    """What the agent acts on: it warms and cools by itself, and the tools change it."""

    def __init__(self, seed: int = 1):
        self.temperature, self._random = 14.0, random.Random(seed)

    def heat(self, minutes: int) -> None:
        self.temperature += 0.4 * minutes

    def cool(self, minutes: int) -> None:
        self.temperature -= 0.4 * minutes

    def wait(self, minutes: int) -> None:
        self.temperature += self._random.uniform(-0.3, 0.3) * minutes


class Agent:
    """A conversation that is only ever appended to, so that no step is read twice.

    Args:
        llm: a Llama with a budget.
        rules: the system prompt, which is pinned: no head ever evicts it.
        schema: JSON schema that each answer keeps to.
    """

    def __init__(self, llm: Llama, rules: str, schema: dict):
        self.llm, self._grammar = llm, LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        self._vocab = Vocab(llm.model)
        self._turns = Turns(ChatTemplate(llm.metadata, self._vocab), rules)
        self._before, self._after = self._turns.first
        llm.reset()
        llm.pin(0, len(self._tokens(self._before)))

    def _tokens(self, text: str) -> list[int]:
        return self.llm.tokenize(text.encode(), add_bos=False, special=True)

    def step(self, observation: str) -> dict:
        """Tell the agent what it observes; returns the call that it makes."""
        self.llm.eval(self._tokens(self._before + observation + self._after))
        said = b""
        for token in self.llm.generate([], reset=False, temp=0, grammar=self._grammar):
            if self._vocab.is_eog(token):
                break
            said += self._vocab.piece(token)
        self._before, self._after = self._turns.later
        return json.loads(said)


def run(llm: Llama, house: Greenhouse, n_steps: int | None = None) -> Iterator[tuple[float, dict]]:
    """(temperature that the agent was told, the call that it made) of each step; without n_steps there is no end."""
    agent = Agent(llm, RULES, CALL)
    for _ in range(n_steps) if n_steps else itertools.count():
        told = round(house.temperature, 1)
        call = agent.step(f"Temperature: {told} degrees.")
        getattr(house, call["tool"])(call["minutes"])
        yield told, call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--steps", type=int, help="end after so many steps; without it the agent runs until Ctrl-C")
    parser.add_argument("--budget", type=int, default=512)
    given = parser.parse_args()
    with Llama(given.model, kv_budget=given.budget, verbose=False) as llm:
        for i, (told, call) in enumerate(run(llm, Greenhouse(), given.steps), start=1):
            if i % 20 == 1:
                now = llm.kv_stats()
                print(f"step {i:,}: {told} degrees -> {call}   [{now.n_tokens:,} tokens read, {now.n_used:,} held]", flush=True)


if __name__ == "__main__":
    main()
