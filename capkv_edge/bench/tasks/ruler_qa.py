"""RULER's questions about documents (arXiv 2404.06654), from the user's own copies of SQuAD and HotpotQA.

Template and reading of the files are those of github.com/NVIDIA/RULER. The documents that belong to a
question stand among others of the same file, in random order. RULER takes the questions in the order of the file, of which
neighbours are about one paragraph; here a text has a question drawn at random.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .questions import Draft, Item, Text, match_any

_INSTRUCTION = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
_HEAD = f"{_INSTRUCTION}\n\nThe following are given documents.\n\n"
_QUESTION = f"{_INSTRUCTION}\n\nQuestion: {{query}}"
_PREFIX = " Answer:"
N_PREDICT = 32


@dataclass(frozen=True)
class Question:
    """`own`: indices of the documents that belong to it; `needed`: of those that have the answer; `near`: of the same article."""

    query: str
    answers: tuple
    own: tuple
    needed: tuple
    near: tuple = ()


@dataclass(frozen=True)
class Questions:
    """A file of questions. `documents` are texts, each once; `name` is the file's with a digest of it."""

    name: str
    documents: tuple
    questions: tuple


def _squad(data) -> tuple:
    articles = [[p["context"] for p in article["paragraphs"]] for article in data["data"]]
    documents, at = _numbered(text for article in articles for text in article)
    questions = []
    for article, texts in zip(data["data"], articles):
        for paragraph in article["paragraphs"]:
            own = at[paragraph["context"]]
            near = tuple(dict.fromkeys(at[text] for text in texts if at[text] != own))
            for one in paragraph["qas"]:
                if not one.get("is_impossible", False):
                    answers = tuple(answer["text"] for answer in one["answers"])
                    questions.append(Question(one["question"], answers, (own,), (own,), near))
    return documents, questions


def _hotpotqa(data) -> tuple:
    def texts(one) -> list:
        return [f"{title}\n{''.join(sentences)}" for title, sentences in one["context"]]

    documents, at = _numbered(text for one in data for text in texts(one))
    questions = []
    for one in data:
        own = tuple(dict.fromkeys(at[text] for text in texts(one)))
        facts = {title for title, _ in one["supporting_facts"]}
        needed = tuple(at[text] for text, (title, _) in zip(texts(one), one["context"]) if title in facts)
        questions.append(Question(one["question"], (one["answer"],), own, needed))
    return documents, questions


def _numbered(texts) -> tuple:
    documents = sorted(set(texts))
    return documents, {text: i for i, text in enumerate(documents)}


FORMS = {"squad": _squad, "hotpotqa": _hotpotqa}


@cache
def load(form: str, path: str) -> Questions:
    """The questions of a file as SQuAD ("squad": dev-v2.0.json) or HotpotQA ("hotpotqa": hotpot_dev_distractor_v1.json) has it.

    Raises:
        OSError: no such file.
        ValueError: not a file of this form, or no question in it.
    """
    raw = Path(path).expanduser().read_bytes()
    try:
        documents, questions = FORMS[form](json.loads(raw))
        is_text = all(isinstance(text, str) for one in questions for text in (one.query, *one.answers))
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise ValueError(f"{form} = {path}: not a file in the form of this data set ({type(err).__name__}: {err})") from None
    questions = tuple(one for one in questions if one.answers)
    if not questions or not is_text:
        raise ValueError(f"{form} = {path}: there is no question with an answer in it")
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    return Questions(f"{Path(path).name}#{digest}", tuple(documents), questions)


def qa(draft: Draft) -> Text:
    """A question, its own documents, and as many others as fit. The answer is right if any of those that the file has stands in it."""
    data = draft.haystack
    order = draft.rng(indexed=False).permutation(len(data.questions))
    one = data.questions[order[draft.index % len(order)]]
    rng = draft.rng()
    others = sorted(set(range(len(data.documents))) - {*one.own, *one.near})
    more = [*rng.permutation(one.near).tolist(), *rng.permutation(others).tolist()]
    places = rng.random(len(one.own) + len(more))  # the documents stand in the order of these numbers
    item = Item(_QUESTION.format(query=one.query), one.answers, N_PREDICT, _PREFIX, check=match_any)

    def build(n: int) -> Text:
        chosen = [*one.own, *more[:n]]
        shown = [data.documents[i] for _, i in sorted(zip(places, chosen))]
        body = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(shown, 1))
        return Text(f"{_HEAD}{body}\n\n", (item,), evidence=tuple(data.documents[i] for i in one.needed))

    return draft.fit(build, len(more))
