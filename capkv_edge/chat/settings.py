"""What of a chat can be changed while it runs: /set, and the options of the command line with the same names."""

from dataclasses import dataclass

from ..command import MOST, number


@dataclass(frozen=True)
class Setting:
    """A number that the user may set."""

    kind: type  #: int or float
    default: float
    least: float
    most: float
    help: str

    def read(self, name: str, text: str) -> float:
        """The number in a text. Raises ValueError naming the setting, the value and the range."""
        return number(self.kind, name, text, self.least, self.most)


#: as options have "-" for "_"; the samplers' defaults are those of llama_cpp
SETTINGS = {
    "temp": Setting(float, 0.8, 0, 100, "temperature, 0 = always the most likely token"),
    "top_k": Setting(int, 40, 0, MOST, "choose among the k most likely tokens, 0 = all"),
    "top_p": Setting(float, 0.95, 0, 1, "choose among the most likely tokens that have this probability together, 1 = all"),
    "min_p": Setting(float, 0.05, 0, 1, "choose among tokens with this share of the most likely one's probability, 0 = all"),
    "repeat_penalty": Setting(float, 1.0, 0, 100, "divides the score of tokens that were said lately, 1 = no penalty"),
    "seed": Setting(int, 0, 0, 2**32 - 1, "seed of the sampling"),
    "max_tokens": Setting(int, 0, 0, MOST, "longest reply in tokens, 0 = no limit"),
    "recall": Setting(int, 0, 0, MOST, "tokens of evicted text that may come back with a question, 0 = off"),
}
_SAMPLING = ("temp", "top_k", "top_p", "min_p", "repeat_penalty")


class Settings:
    """How replies are sampled, and how long they may be: attributes with the names of SETTINGS, but for `seed` and `recall`."""

    def __init__(self, **given):
        for name in (*_SAMPLING, "max_tokens"):
            setattr(self, name, given.pop(name, SETTINGS[name].default))
        if given:
            raise TypeError(f"no such setting: {next(iter(given))}")

    def sampling(self) -> dict:
        """The keywords for Llama.generate()."""
        return {name: getattr(self, name) for name in _SAMPLING}


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _value(talk, name: str) -> str:
    if name == "seed":
        return "as at the start" if talk.seed is None else str(talk.seed)
    return str(talk.recall.quota if name == "recall" else getattr(talk.settings, name))


def change(talk, rest: str) -> list:
    """/set: with a name and a value the setting is changed, without them all are shown. Returns the lines to show.

    Raises:
        ValueError: no such setting, or a value that is not allowed.
    """
    name, _, text = rest.replace("=", " ").partition(" ")
    if not name:
        return [f"{_shown(name):<15} {_value(talk, name):<15} {setting.help}" for name, setting in SETTINGS.items()]
    key = name.replace("-", "_")
    if key not in SETTINGS:
        raise ValueError(f"/set {name}: allowed is {', '.join(map(_shown, SETTINGS))}")
    if not text.strip():
        return [f"{name} is {_value(talk, key)}: {SETTINGS[key].help}"]
    value = SETTINGS[key].read(_shown(key), text.strip())
    if key == "seed":
        talk.seed = value
    elif key == "recall":
        talk.recall.quota = value
    else:
        setattr(talk.settings, key, value)
    return [f"{_shown(key)} is {_value(talk, key)} now"]


def choices() -> list:
    """What may stand behind /set, for completion."""
    return [_shown(name) for name in SETTINGS]
