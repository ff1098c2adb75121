"""LongBench's metrics (arXiv 2308.14508), with the scores that its own evaluation gives.

Each is a function (prediction, truth, classes) -> score in [0, 1]; truth is one of an item's answers. Oddities of the official
evaluation are kept where they change scores, with a comment.
"""

import re
import string
import warnings
from collections import Counter
from functools import cache

INSTALL = "pip install 'capkv-edge[longbench]'"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)
# Chinese and typographic punctuation; the opening angle brackets are missing in the official set too
_RANGES = (
    *((0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011)),
    *((0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F)),
    *((0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)),
)
_PUNCTUATION_ZH = _PUNCTUATION | {chr(c) for first, last in _RANGES for c in range(first, last + 1)}


def _missing(name: str) -> ImportError:
    return ImportError(f"LongBench's metrics need {name}, which is not installed: {INSTALL}")


@cache
def _rouge():
    try:
        from rouge import Rouge
    except ImportError:
        raise _missing("rouge") from None
    return Rouge(metrics=["rouge-l"])


@cache
def _jieba():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own: on regular expressions and pkg_resources
            import jieba
    except ImportError:
        raise _missing("jieba") from None
    jieba.setLogLevel("ERROR")
    return jieba


@cache
def _indel():
    try:
        from rapidfuzz.distance import Indel
    except ImportError:
        raise _missing("rapidfuzz") from None
    return Indel


def _words_zh(text: str) -> list:
    return list(_jieba().cut(text, cut_all=False))


def normalize(text: str) -> str:
    """The text in lower case, without punctuation and articles, with single blanks."""
    text = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def normalize_zh(text: str) -> str:
    """The text in lower case, without punctuation and white space."""
    return "".join("".join(c for c in text.lower() if c not in _PUNCTUATION_ZH).split())


# --- the metrics ---


def _f1(ours: list, theirs: list) -> float:
    n_same = (Counter(ours) & Counter(theirs)).total()
    return 2 * n_same / (len(ours) + len(theirs)) if n_same else 0.0


def qa_f1(prediction: str, truth: str, classes=None) -> float:
    """F1 of the words that prediction and truth have in common."""
    return _f1(normalize(prediction).split(), normalize(truth).split())


def qa_f1_zh(prediction: str, truth: str, classes=None) -> float:
    """qa_f1 over the words that jieba finds."""
    ours, theirs = ([word for word in map(normalize_zh, _words_zh(text)) if word] for text in (prediction, truth))
    return _f1(ours, theirs)


def rouge(prediction: str, truth: str, classes=None) -> float:
    """ROUGE-L's F of the package rouge; 0 where it raises, as it does for texts without words."""
    try:
        return float(_rouge().get_scores(prediction, truth)[0]["rouge-l"]["f"])
    except (ValueError, RecursionError):
        return 0.0


def rouge_zh(prediction: str, truth: str, classes=None) -> float:
    """rouge over the words that jieba finds."""
    return rouge(*(" ".join(_words_zh(text)) for text in (prediction, truth)))


def classification(prediction: str, truth: str, classes=None) -> float:
    """1 / (number of classes that the prediction names), or 0 if the true class is not among them.

    A class whose name is a part of the true one's is not counted, unless the class before it was left out for that reason."""
    named = [name for name in classes or () if name in prediction]
    i = 0
    while i < len(named):
        if named[i] in truth and named[i] != truth:
            del named[i]
        i += 1  # also after a deletion, as the official loop does, which deletes from the list that it walks
    return 1 / len(named) if truth in named else 0.0


def _numbers(prediction: str, wanted: str) -> float:
    found = re.findall(r"\d+", prediction)
    return found.count(wanted) / len(found) if found else 0.0


def count(prediction: str, truth: str, classes=None) -> float:
    """Share of the numbers in the prediction that are the true one."""
    return _numbers(prediction, str(truth))


def retrieval(prediction: str, truth: str, classes=None) -> float:
    """Share of the numbers in the prediction that are that of the true paragraph ("Paragraph 7")."""
    return _numbers(prediction, re.search(r"Paragraph (\d+)", truth)[1])


def retrieval_zh(prediction: str, truth: str, classes=None) -> float:
    """Share of the numbers in the prediction that are that of the true paragraph ("段落7")."""
    return _numbers(prediction, re.search(r"段落(\d+)", truth)[1])


def code_sim(prediction: str, truth: str, classes=None) -> float:
    """Similarity of the truth and the prediction's first line that is neither a comment nor a fence, rounded to hundredths.

    1 - (insertions and deletions that turn one into the other) / (length of both): fuzzywuzzy's ratio with python-Levenshtein."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    n = len(line) + len(truth)
    return round(100 * (_indel().similarity(line, truth) / n)) / 100 if n else 1.0


METRICS = {f.__name__: f for f in (qa_f1, qa_f1_zh, rouge, rouge_zh, classification, count, retrieval, retrieval_zh, code_sim)}

_NEEDS = {"qa_f1_zh": (_jieba,), "rouge": (_rouge,), "rouge_zh": (_rouge, _jieba), "code_sim": (_indel,)}


def check(metric: str) -> None:
    """Raises ImportError where a package that the metric needs is missing; the message has the command that installs it."""
    for load in _NEEDS.get(metric, ()):
        load()


def first_line(prediction: str) -> str:
    """The first line that is not empty: what counts of an answer to a prompt of examples."""
    return prediction.lstrip("\n").split("\n")[0]


def score(metric: str, prediction: str, answers: list, classes=None) -> float:
    """The best score over the answers; 0 where there are none."""
    return max((METRICS[metric](prediction, answer, classes) for answer in answers), default=0.0)
