"""The options that several commands of capkv-bench have, each declared once, and how their lists are read."""

import functools
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from ..command import option
from ..config import CACHE_TYPES, policies
from .report.output import FORMATS
from .run.setups import SHIFT, Setup

_MOST_SEED = 2**32 - 1

Model = Annotated[str, typer.Argument(metavar="MODEL.gguf", help="a GGUF file, or 'demo'", show_default=False)]
Texts = Annotated[str, option("--text", "T,..", "python-docs, python-code, essays, files or folders")]
Docs = Annotated[int, option("--docs", "N", "documents of each text", min=1)]
Stride = Annotated[int, option("--stride", "N", "score every N-th token", min=1)]
Mode = Annotated[str, option("--mode", "M,..", "blind: evict before the question is known; aware: evict after it")]

#: name: (declaration, default) of the options that shared() can add
SHARED = {
    "policy": (
        Annotated[str, option("--policy", "P,..", f"policies, {SHIFT} (llama.cpp's context shift), or all")],
        "capkv,streaming,shift",
    ),
    "budget": (Annotated[str, option("--budget", "N,..", "tokens kept per KV head; each policy runs at each")], "512,1024"),
    "type": (Annotated[str, option("--type", "T,..", "types of the cache at those budgets")], "f16"),
    "setup": (
        Annotated[
            str,
            option("--setup", "S;..", "more setups, by short name: q8_0, capkv@512:q8_0, capkv@=q4_0, capkv@512,novelty=0"),
        ],
        "q8_0;q4_0",
    ),
    "rows": (
        Annotated[Path | None, option("--rows", "FILE", "keep rows in it as JSON lines; do not measure again what it has")],
        None,
    ),
    "keep_old": (
        Annotated[bool, option("--keep-old", "", "count rows of another build, machine or number of threads as measured")],
        False,
    ),
    "output": (Annotated[str, option("-o/--output", "FORMAT", "format to print: " + ", ".join(FORMATS))], "md"),
    "plot": (Annotated[Path | None, option("--plot", "FOLDER", "write PNGs and a page there")], None),
    "threads": (
        Annotated[
            int | None, option("-t/--threads", "N", "CPU threads", min=1, max=512, show_default="the cores that it may use")
        ],
        None,
    ),
    "gpu_layers": (
        Annotated[
            int | None,
            option("--gpu-layers", "N", "layers on the GPU, -1 = all", min=-1, show_default="all in a build with a GPU"),
        ],
        None,
    ),
    "seed": (Annotated[int, option("--seed", "N", "seed of texts, tasks and the policy's sample", min=0, max=_MOST_SEED)], 1),
    "seeds": (
        Annotated[
            str,
            option(
                "--seeds",
                "N,..",
                "seeds of the policy's sample: each is measured, and a document's figures are means over them",
                show_default="that of --seed",
            ),
        ],
        "",
    ),
}
COMPARED = ("policy", "budget", "type", "setup")
KEPT = ("rows", "keep_old")
SHOWN = ("output", "plot")
MACHINE = ("threads", "gpu_layers")
#: of a command that measures setups
MEASURED = (*COMPARED, *KEPT, *SHOWN, *MACHINE, "seed")


def shared(*names: str, **defaults):
    """A decorator: add these options of SHARED to a command, behind its own; their values are its first argument, `given`.

    defaults: by name, where they are not those of SHARED.
    """
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, SHARED[name][1]), annotation=SHARED[name][0]
        )
        for name in names
    ]

    def decorate(command):
        @functools.wraps(command)
        def run(**values):
            given = SimpleNamespace(**{name: values.pop(name) for name in names})
            return command(given, **values)

        own = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in list(inspect.signature(command).parameters.values())[1:]
        ]
        run.__signature__ = inspect.Signature([*own, *added])
        run.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
        return run

    return decorate


def split(text: str, mark: str = ",") -> list:
    """The parts of a list, without blanks around them."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def numbers(name: str, text: str, kind=int, least=0, most=2**31 - 1) -> list:
    """The numbers of a list, each once, in its order. Raises ValueError naming option, value and range."""
    out = []
    for part in split(text):
        try:
            value = kind(part)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise ValueError(f"{name} = {part}: allowed are numbers, {least} to {most}, with commas between them")
        out.append(value)
    if not out:
        raise ValueError(f"{name} is empty: allowed are numbers, {least} to {most}, with commas between them")
    return list(dict.fromkeys(out))


def policy_names(text: str) -> list:
    """Policies of a list; "all" is all of them and the context shift. Raises ValueError for an unknown one."""
    known = [*policies(), SHIFT]
    names = known if text.strip() == "all" else split(text)
    for name in names:
        if name not in known:
            raise ValueError(f"--policy = {name}: allowed are all, {', '.join(known)}")
    return list(dict.fromkeys(names))


def named_setups(names: str) -> list:
    """The Setups of short names with ; between them. Raises ValueError for a part that is wrong, with what is allowed."""
    return [Setup.parse(name) for name in split(names, ";")]


def setups(policy: str, budget: str, type: str, setup: str) -> list:
    """The Setups of the options in COMPARED: the full cache, each policy at each budget in each type, then those of `setup`.

    Raises:
        ValueError: a part that is wrong, with what is allowed.
    """
    types = split(type)
    for name in types:
        if name not in CACHE_TYPES:
            raise ValueError(f"--type = {name}: allowed are {', '.join(CACHE_TYPES)}")
    out = [Setup()]
    for name in policy_names(policy):
        for tokens in numbers("--budget", budget, least=1):
            for one in types:
                out.append(Setup.parse(f"{name}@{tokens}" + ("" if one == "f16" else f":{one}")))
    out += named_setups(setup)
    return list(dict.fromkeys(out))


def setups_of(given: SimpleNamespace, retrieval: bool = False) -> list:
    """setups() of a command's shared options. Raises ValueError for recall, a pin or an oracle where it measures no retrieval."""
    found = setups(*(getattr(given, name) for name in COMPARED))
    for one in found:
        for word, has_it in (("recall", one.recall), ("pins", one.pin), ("an oracle", one.oracle)):
            if has_it and not retrieval:
                raise ValueError(f"setup = {one.name}: retrieval alone measures {word}")
    return found


def seeded_setups_of(given: SimpleNamespace, retrieval: bool = False) -> list:
    """setups_of(), each once for each seed of its policy's sample: --seeds, or else --seed. Raises ValueError as setups_of()."""
    seeds = numbers("--seeds", given.seeds, most=_MOST_SEED) if given.seeds else [given.seed]
    return [one for setup in setups_of(given, retrieval) for one in setup.with_seeds(seeds)]
