"""The sampling that a model's author asks for, in the metadata of its file: general.sampling.*, as llama.cpp reads it."""

from collections import namedtuple

Sampling = namedtuple("Sampling", "values unused")
Sampling.__doc__ = """values: {keyword of Llama.generate(): number}; unused: keys of the metadata that are left out."""

_START = "general.sampling."
#: key of the metadata -> keyword of Llama.generate() and its type. The others are rare, or llama_cpp does not take them: xtc_*, mirostat*,
#: sequence, penalty_last_n
_KEYWORDS = {
    "temp": ("temp", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "penalty_repeat": ("repeat_penalty", float),
}


def sampling(metadata: dict) -> Sampling:
    """What a model's metadata, {key: text}, asks for. A value that is no number is unused."""
    asked = {key.removeprefix(_START): text for key, text in metadata.items() if key.startswith(_START)}
    values = {}
    for name, (keyword, kind) in _KEYWORDS.items():
        try:
            values[keyword] = kind(float(asked[name]))
            del asked[name]
        except (KeyError, ValueError, OverflowError):
            continue
    return Sampling(values, [_START + name for name in asked])
