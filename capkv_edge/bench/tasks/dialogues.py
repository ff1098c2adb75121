"""Long conversations: facts that the user told in the first turns, or a rule in the system prompt, and then many turns of other
talk before the questions.

All turns are written beforehand, and nothing is generated before the question. A draft's length counts the turns of other talk.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .questions import Draft, Item, Text
from .small_talk import NOTED, QUESTIONS, small_talk
from .words import numbers

# --- what the user told ---

_SURNAMES = (
    "Marlow Pendrick Osgood Tavish Quimby Ferrante Lindqvist Okoro Brannigan Castellan Dimitrov Hathaway Juarez Kowalski"
)
_NAMES = "Beatrix Caspian Dorothea Eamon Fenella Gideon Henrike Ignatius Josephine Leopold Mireille Octavia Percival Rosalind"
_CITIES = "Lisbon Helsinki Nairobi Osaka Toronto Valencia Krakow Montreal Santiago Hanoi Bergen Tbilisi Cardiff Antwerp"
_PETS = "Biscuit Pickles Waffle Domino Pepper Truffle Noodle Ziggy Muffin Sprocket Bramble Cocoa Dumpling Figaro"
_INSTRUMENTS = (
    "accordion bassoon clarinet harmonica mandolin oboe saxophone trombone ukulele xylophone zither marimba bagpipes lute"
)
_SHIPS = "Albatross Meridian Nightingale Poseidon Stormcloud Kingfisher Wanderer Corsair Windermere Halcyon Osprey Tempest"
_N_CODES = 9000  # numbers of four digits


@dataclass(frozen=True)
class Fact:
    told: str  #: the sentence up to the value
    question: str
    reworded: str  #: the question in other words, none of which is in `told` but small ones
    values: str = ""  #: words to choose from; empty: a number of four digits


FACTS = (
    Fact("My dentist is called Dr.", "What is the name of my dentist?", "Who looks after my teeth?", _SURNAMES),
    Fact("My sister has moved to", "Which city has my sister moved to?", "Where does my sibling live now?", _CITIES),
    Fact("I have a dog named", "What is the name of my dog?", "What do I call my puppy?", _PETS),
    Fact("The code of my locker is", "What is the code of my locker?", "Which digits open the cabinet that is mine?"),
    Fact("The instrument that I play is the", "Which instrument do I play?", "On what do I make music?", _INSTRUMENTS),
    Fact("My grandmother's name is", "What is my grandmother's name?", "Who is the mother of my mother or father?", _NAMES),
    Fact("My parking permit has the number", "Which number does my parking permit have?", "Which digits are on my card for cars?"),
    Fact("My uncle's boat is called", "What is my uncle's boat called?", "How did my father's brother christen his ship?", _SHIPS),
)


def recall(draft: Draft, *, reworded: bool = False) -> Text:
    """Facts told in the first turns, one for each question, then `length` turns of other talk.

    reworded: the questions have other words than the facts.
    """
    rng = draft.rng()
    turns, items, evidence = [], [], []
    codes = [number[:4] for number in numbers(rng, len(FACTS))]
    for i, kind in enumerate(rng.permutation(len(FACTS))[: draft.share].tolist()):
        fact = FACTS[kind]
        values = fact.values.split() or [codes[kind]]
        value = values[rng.integers(len(values))]
        evidence.append(f"{fact.told} {value}.")
        turns += [("user", evidence[-1]), ("assistant", NOTED[rng.integers(len(NOTED))])]
        depth = round(i / (draft.share + draft.length), 4)
        question = fact.reworded if reworded else fact.question
        n_choices = len(fact.values.split()) or _N_CODES
        items.append(Item(question, (value,), 16, f'You told me: "{fact.told}', depth, n_choices=n_choices))
    for question, reply in small_talk(rng, draft.length):
        turns += [("user", question), ("assistant", reply)]
    return Text("", tuple(items), tuple(turns), tuple(evidence))


# --- a rule of the system prompt ---

_WORDS = "PELICAN SATURN COBALT JUNIPER MANGROVE TRIDENT OBSIDIAN FLAMINGO ZEPPELIN GRANITE".split()
TRIGGER = "Memo:"


def ends_with(answer: str, expected) -> float:
    return float(re.sub(r"\W+\Z", "", answer).endswith(expected[0]))


def begins_with(answer: str, expected) -> float:
    return float(re.sub(r"\A\W+", "", answer).startswith(expected[0]))


def holds_once(answer: str, expected) -> float:
    return float(answer.count(expected[0]) == 1)


def is_upper(answer: str, _) -> float:
    return float(answer.isupper())


def is_lower(answer: str, _) -> float:
    return float(answer.islower())


def is_bracketed(answer: str, _) -> float:
    return float(re.fullmatch(r"\s*\[.*\]\s*", answer, re.DOTALL) is not None)


@dataclass(frozen=True)
class Rule:
    told: str  #: what to do with a reply; {} stands for a word
    show: Callable  #: (reply, word) -> a reply that keeps the rule
    check: Callable  #: (answer, (word,)) -> 1.0 where the answer keeps the rule, else 0.0


RULES = (
    Rule("end your reply with the word {}", lambda reply, word: f"{reply} {word}", ends_with),
    Rule("begin your reply with the word {}", lambda reply, word: f"{word} {reply}", begins_with),
    Rule("put the code [{}] somewhere into your reply, once", lambda reply, word: f"{reply} [{word}]", holds_once),
    Rule("write your whole reply in capital letters", lambda reply, _: reply.upper(), is_upper),
    Rule("write your whole reply in small letters, without any capital", lambda reply, _: reply.lower(), is_lower),
    Rule("put your whole reply in square brackets", lambda reply, _: f"[{reply}]", is_bracketed),
)


def instruction(draft: Draft, *, demonstrated: bool = False) -> Text:
    """A rule for messages that begin with TRIGGER, `length` turns of other talk, then such messages, each asked alone.

    The other turns neither keep nor break the rule. demonstrated: all of them begin with TRIGGER, and their replies keep the rule.
    """
    rng = draft.rng()
    rule, word = RULES[draft.index % len(RULES)], _WORDS[rng.integers(len(_WORDS))]
    told = rule.told.format(word)
    turns = [("system", f"You are a helpful assistant. Whenever a message of the user begins with '{TRIGGER}', {told}.")]
    for question, reply in small_talk(rng, draft.length):
        if demonstrated:
            question, reply = f"{TRIGGER} {question}", rule.show(reply, word)
        turns += [("user", question), ("assistant", reply)]
    asked = [QUESTIONS[i] for i in rng.permutation(len(QUESTIONS))[: draft.share].tolist()]
    items = [
        Item(f"{TRIGGER} {question} Reply in one short sentence.", (word,), 64, depth=0.0, check=rule.check)
        for question in asked
    ]
    return Text("", tuple(items), tuple(turns), (turns[0][1],))
