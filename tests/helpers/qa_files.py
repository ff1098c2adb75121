"""Small files in the forms of SQuAD's and HotpotQA's, whose answers a program can find."""

import json

N_ARTICLES, N_PARAGRAPHS = 12, 4


def _fact(i: int) -> tuple:
    """(sentence, question, answer)"""
    return f"The river of town number {i} is the Brook{i}.", f"Which river does town number {i} have?", f"Brook{i}"


def _text(i: int) -> str:
    return f"{_fact(i)[0]} It has a market, a school and a bridge, and its people like to sing. Nobody knows who built its tower."


def squad(path) -> str:
    """Write a file as SQuAD 2.0's; returns its path. The last question of each article has no answer."""
    articles = []
    for article in range(N_ARTICLES):
        numbers = [article * N_PARAGRAPHS + k for k in range(N_PARAGRAPHS)]
        paragraphs = []
        for i in numbers:
            _, question, answer = _fact(i)
            answers = [{"text": text, "answer_start": 0} for text in (answer, f"the {answer}")]
            asked = {"question": question, "id": str(i), "answers": answers, "is_impossible": False}
            paragraphs.append({"context": _text(i), "qas": [asked]})
        paragraphs[-1]["qas"].append({"question": "Who built it?", "id": "x", "answers": [], "is_impossible": True})
        articles.append({"title": f"Article {article}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return str(path)


def hotpotqa(path) -> str:
    """Write a file as HotpotQA's in the distractor setting; returns its path. Each question has three documents and needs two."""
    out = []
    for i in range(0, N_ARTICLES * N_PARAGRAPHS, 3):
        _, question, answer = _fact(i)
        context = [[f"Town {k}", [_text(k), " The next town is far."]] for k in (i, i + 1, i + 2)]
        facts = [[f"Town {i}", 0], [f"Town {i + 2}", 1]]
        out.append({"_id": str(i), "question": question, "answer": answer, "context": context, "supporting_facts": facts})
    path.write_text(json.dumps(out))
    return str(path)
