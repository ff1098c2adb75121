"""The options that the commands of capkv-bench share, each declared once, and what their lists mean."""

from pathlib import Path
from typing import Annotated

import typer

from ..config import CACHE_TYPES, policies
from .run.setups import SHIFT, Setup

FORMATS = ("md", "csv", "json", "jsonl")


def _option(names: str, metavar: str, text: str, **more):
    return typer.Option(*names.split("/"), metavar=metavar, help=text, **more)


Model = Annotated[str, typer.Argument(metavar="MODEL.gguf", help="a GGUF file, or 'demo'", show_default=False)]
Policies = Annotated[str, _option("--policy", "P,..", f"policies, {SHIFT} (llama.cpp's context shift), or all")]
Budgets = Annotated[str, _option("--budget", "N,..", "tokens kept per KV head; each policy runs at each")]
Types = Annotated[str, _option("--type", "T,..", "cache types that the budgets run in")]
Setups = Annotated[
    str, _option("--setup", "S;..", "more to compare, by short name: q8_0, capkv@512:q8_0, capkv@=q4_0, capkv@512,novelty=0")
]
Texts = Annotated[str, _option("--text", "T,..", "python-docs, essays, files or folders")]
Contexts = Annotated[str, _option("--ctx", "N,..", "contexts in tokens; the last half of each is scored")]
Rows = Annotated[Path | None, _option("--rows", "FILE", "keep rows there as JSON lines, and skip what it has already")]
Output = Annotated[str, _option("-o/--output", "FORMAT", "what is printed: " + ", ".join(FORMATS))]
Plot = Annotated[Path | None, _option("--plot", "FOLDER", "write PNGs and a page there")]
Threads = Annotated[int | None, _option("-t/--threads", "N", "CPU threads", min=1, max=512, show_default="the cores that it may use")]
GpuLayers = Annotated[
    int | None, _option("--gpu-layers", "N", "layers on the GPU, -1 = all", min=-1, show_default="all in a build with a GPU")
]
Seed = Annotated[int, _option("--seed", "N", "of texts and tasks", min=0, max=2**32 - 1)]


def split(text: str, mark: str = ",") -> list:
    """The parts of a list, without blanks around them."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def numbers(option: str, text: str, kind=int, least=0, most=2**31 - 1) -> list:
    """The numbers of a list, each once, in its order. Raises ValueError naming option, value and range."""
    out = []
    for part in split(text):
        try:
            value = kind(part)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise ValueError(f"{option} = {part}: allowed are numbers, {least} to {most}, with commas between them")
        out.append(value)
    if not out:
        raise ValueError(f"{option} is empty: allowed are numbers, {least} to {most}, with commas between them")
    return list(dict.fromkeys(out))


def policy_names(text: str) -> list:
    """Policies of a list; "all" is all of them and the context shift. Raises ValueError for an unknown one."""
    known = [*policies(), SHIFT]
    names = known if text.strip() == "all" else split(text)
    for name in names:
        if name not in known:
            raise ValueError(f"--policy = {name}: allowed are all, {', '.join(known)}")
    return list(dict.fromkeys(names))


def setups(policy: str, budget: str, kind: str, more: str) -> list:
    """The Setups of the options: the full cache first, then each policy at each budget in each type, then those by short name.

    Raises:
        ValueError: a part that is wrong, with what is allowed.
    """
    kinds = split(kind)
    for name in kinds:
        if name not in CACHE_TYPES:
            raise ValueError(f"--type = {name}: allowed are {', '.join(CACHE_TYPES)}")
    out = [Setup()]
    for name in policy_names(policy):
        for tokens in numbers("--budget", budget, least=1):
            for one in kinds:
                out.append(Setup.parse(f"{name}@{tokens}" + ("" if one == "f16" else f":{one}")))
    out += [Setup.parse(text) for text in split(more, ";")]
    return list(dict.fromkeys(out))
