"""The options of a KV budget. Names, defaults, ranges and help come from the table in the native library, as do the errors."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ._lib import last_error, load

#: types that K and V may be stored in, with their numbers (enum ggml_type)
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}

#: those of V that need no flash attention
PLAIN_TYPES = (CACHE_TYPES["f32"], CACHE_TYPES["f16"], CACHE_TYPES["bf16"])


@dataclass(frozen=True)
class Option:
    """One option, as declared in the native library: `kv_NAME` in Python, `--NAME` in capkv-chat."""

    name: str
    kind: type  #: int, float, bool (a switch) or str; an int can also be a word or have a unit: "auto", "10%"
    env: str  #: the environment variable that sets it
    metavar: str
    default: str
    range: str
    help: str

    @property
    def is_switch(self) -> bool:
        """Whether command lines take it without a value; True and False are 1 and 0."""
        return self.kind is bool

    def value(self, text: str) -> Any:
        """What the native library's text stands for: a number where it is one; 0 or 1 for a switch."""
        try:
            return (int if self.is_switch else self.kind)(text)
        except ValueError:
            return text


def _text(chars: Any) -> str:
    return str(load()[0].string(chars).decode("utf-8"))


@cache
def options() -> dict[str, Option]:
    """{name: Option} in the order of the table."""
    _, lib = load()
    kinds = {
        lib.CAPKV_TYPE_UINT: int,
        lib.CAPKV_TYPE_FLOAT: float,
        lib.CAPKV_TYPE_SWITCH: bool,
        lib.CAPKV_TYPE_POLICY: str,
        lib.CAPKV_TYPE_BUDGET: int,
        lib.CAPKV_TYPE_CHOICE: str,
    }
    found = {}
    for i in range(lib.capkv_n_options()):
        row = lib.capkv_get_option(i)
        texts = (row.env, row.metavar, row.default_value, row.range, row.help)
        found[_text(row.name)] = Option(_text(row.name), kinds[row.type], *map(_text, texts))
    return found


def policies() -> dict[str, str]:
    """{name: one line of help} of the eviction policies."""
    _, lib = load()
    rows = [lib.capkv_get_policy(i) for i in range(lib.capkv_n_policies())]
    return {_text(row.name): _text(row.help) for row in rows}


def _option_text(name: str, value: Any) -> str:
    return str(int(value)) if options()[name].is_switch and isinstance(value, bool) else str(value)


def _set(params: Any, name: str, value: str) -> None:
    if "\0" in value:
        raise ValueError(f"kv_{name} = {value!r}: allowed is {options()[name].range}")
    if not load()[1].capkv_params_set(params, name.encode(), value.encode("utf-8", "replace")):
        raise ValueError(last_error())


def _get(params: Any, option: Option) -> Any:
    ffi, lib = load()
    text = ffi.new("char[]", lib.capkv_params_get(params, option.name.encode(), ffi.NULL, 0) + 1)
    lib.capkv_params_get(params, option.name.encode(), text, len(text))
    return option.value(_text(text))


def cache_type(name: str, option: str) -> int:
    """The enum ggml_type of a name in CACHE_TYPES. Raises ValueError naming the option for any other."""
    if name not in CACHE_TYPES:
        raise ValueError(f"{option} = {name}: allowed is one of {', '.join(CACHE_TYPES)}")
    return CACHE_TYPES[name]


def type_name(number: int) -> str:
    """The name in CACHE_TYPES of an enum ggml_type; the number as text for a type that is not there."""
    return next((name for name, value in CACHE_TYPES.items() if value == number), str(number))


def is_auto(budget: object) -> bool:
    """Whether a budget, or the environment's where it is None, is "auto": the largest that fits the memory."""
    return (os.environ.get(options()["budget"].env) if budget is None else budget) == "auto"


class CapkvConfig:
    """The options of one KV budget, checked and immutable: `CapkvConfig(budget="10%", recent=32).recent == 32`.

    An option that is not given, or given as None, has the table's default. A budget is a number of tokens, a memory size
    ("256MiB") or a share of the context ("10%"); 0 is off.

    Raises:
        TypeError: an option that is not in the table.
        ValueError: a value out of range, or options that clash; names the option, the value and what is allowed.
    """

    def __init__(self, **given: Any) -> None:
        ffi, lib = load()
        unknown = [name for name in given if name not in options()]
        if unknown:
            raise TypeError(f"unknown option kv_{unknown[0]}: allowed are " + ", ".join("kv_" + name for name in options()))
        given = {name: value for name, value in given.items() if value is not None}
        params = ffi.new("struct capkv_params *", lib.capkv_default_params())
        for name, value in given.items():
            _set(params, name, _option_text(name, value))
        if not lib.capkv_params_check(params):
            raise ValueError(last_error())
        self._hold(params, given)

    _params: Any
    _given: tuple[str, ...]
    _values: dict[str, Any]

    def _hold(self, params: Any, given: Iterable[str]) -> None:
        object.__setattr__(self, "_params", params)
        object.__setattr__(self, "_given", tuple(given))
        object.__setattr__(self, "_values", {name: _get(params, option) for name, option in options().items()})

    @classmethod
    def from_env(cls, **given: Any) -> "CapkvConfig":
        """As the constructor, with LLAMA_ARG_KV_BUDGET and so on for the options that are not given."""
        for name, option in options().items():
            if given.get(name) is None and os.environ.get(option.env) is not None:
                given[name] = os.environ[option.env]
                try:
                    _set(load()[0].new("struct capkv_params *"), name, given[name])
                except ValueError as err:
                    raise ValueError(f"{err} (from the environment variable {option.env})") from None
        return cls(**given)

    @classmethod
    def from_params(cls, params: Any) -> "CapkvConfig":
        """From a native `struct capkv_params *` in which all is resolved."""
        config = cls.__new__(cls)
        config._hold(load()[0].new("struct capkv_params *", params[0]), options())
        return config

    @property
    def params(self) -> Any:
        """The native `struct capkv_params *`; not to be written to."""
        return self._params

    @property
    def on(self) -> bool:
        """Whether there is a budget at all."""
        return bool(self.budget != 0)

    def as_dict(self) -> dict[str, Any]:
        """{name: value} of all options, numbers as numbers."""
        return dict(self._values)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in options():
            return self._values[name]
        raise AttributeError(f"CapkvConfig has no option {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"CapkvConfig is immutable: cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapkvConfig) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, ({name: self._values[name] for name in self._given},)

    def __repr__(self) -> str:
        return "CapkvConfig(" + ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items()) + ")"


def _rebuild(values: dict[str, Any]) -> CapkvConfig:
    return CapkvConfig(**values)
