"""What the names of GGUF files say: the quantization, the parts of a split model, and which file is meant."""

import re

#: tried in this order where no quantization is named, as llama.cpp does
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")

_QUANT = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|NVFP4\w*|BF16|F16|F32))$", re.IGNORECASE)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_NO_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix)", re.IGNORECASE)  # beside models: image encoders, data of a quantizer


def _stem(name: str) -> str:
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def quant(name: str) -> str:
    """The quantization that a file's name ends with, such as "Q4_K_M"; "" if it has none."""
    found = _QUANT.search(_PART.sub("", _stem(name)))
    return found[1].upper() if found else ""


def models(names) -> dict:
    """The models among files.

    Args:
        names: of files, as paths with slashes.

    Returns:
        {name without .gguf and without the number of a part: [its files, in order]}; a split model is there if no part is missing.
    """
    found = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf") and not _NO_MODEL.search(name):
            found.setdefault(_PART.sub("", _stem(name)), []).append(name)
    return {stem: files for stem, files in found.items() if _is_whole(files)}


def _is_whole(files: list) -> bool:
    parts = [_PART.search(_stem(name)) for name in files]
    return parts == [None] or (None not in parts and [int(p[1]) for p in parts] == list(range(1, int(parts[0][2]) + 1)))


def choose(names, wanted: str, where: str) -> list:
    """The files of the model that is meant: one, or the parts of a split one.

    Args:
        names: of files, as paths with slashes.
        wanted: a quantization, the name of a file, or "" for a usual one: see DEFAULT_QUANTS.
        where: they are, for the message.

    Raises:
        FileNotFoundError: there is none; the message lists what there is.
        ValueError: several are meant; the message lists them.
    """
    found = models(names)
    if not found:
        raise FileNotFoundError(f"{where} has no GGUF file of a model")
    for attempt in [wanted] if wanted else DEFAULT_QUANTS:
        meant = _meant(found, attempt)
        if len(meant) == 1:
            return found[meant[0]]
        if meant:
            raise ValueError(f"{where} has several files of {attempt}, name one: {_list(found[stem][0] for stem in meant)}")
    if wanted:
        raise FileNotFoundError(f"{where} has no {wanted}, but {_list(map(_label, found))}")
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"{where} has several files, name one as :QUANT: {_list(map(_label, found))}")


def _meant(found: dict, wanted: str) -> list:
    name = _PART.sub("", _stem(wanted)).lower()
    same = [stem for stem in found if name in (stem.lower(), stem.lower().rpartition("/")[2], quant(stem).lower())]
    return same or [stem for stem in found if quant(stem).lower() == f"ud-{name}"]


def _label(stem: str) -> str:
    return quant(stem) or f"{stem}.gguf"


def _list(labels) -> str:
    return ", ".join(sorted(set(labels)))
