"""LongBench's 21 data sets (arXiv 2308.14508): metric, tokens of an answer, and prompt.

The prompts ask for the same as the benchmark's, in other words. Scores that are to be compared with published ones need the
official prompts: the benchmark's files dataset2prompt.json and dataset2maxlen.json beside the data replace those here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One data set. The template has {context}, and in most data sets {input}, the question."""

    metric: str
    n_max: int  #: tokens of an answer, at most
    template: str
    chat: bool = True  #: the prompt goes through the model's chat template
    first_line: bool = False  #: only the first line of the answer counts


def _around(before: str, instruction: str, after: str, ask: str) -> str:
    """The instruction before and after the text."""
    return f"{before} {instruction}\n\n{after}{{context}}\n\n{instruction}\n\n{ask}"


_QUESTION = "Question: {input}\n\nAnswer:"
_SHORT = "Answer in as few words as possible, with a single phrase where one is enough, and explain nothing."
_PAPER = (
    "Answer as briefly as possible, with a single phrase or sentence where one is enough, and explain nothing. "
    'If the article does not tell, write "unanswerable". To a yes/no question, answer "yes", "no" or "unanswerable".'
)
_PASSAGES = _around(
    "Below are some passages, and then a question about them.",
    "Give the answer to the question alone, from the passages, and no other words.",
    "Passages:\n",
    "Question: {input}\nAnswer:",
)

TASKS = {
    "narrativeqa": Task(
        "qa_f1",
        128,
        _around("Below is a story, a novel or the script of a film, and a question.", _SHORT, "Story: ", _QUESTION),
    ),
    "qasper": Task("qa_f1", 128, _around("Below is a scientific article and a question.", _PAPER, "Article: ", _QUESTION)),
    "multifieldqa_en": Task(
        "qa_f1",
        64,
        "Read this text and give a short answer.\n\n{context}\n\n"
        "Answer the question below from the text above: the answer alone, and no other words.\n\nQuestion: {input}\nAnswer:",
    ),
    "multifieldqa_zh": Task(
        "qa_f1_zh",
        64,
        "请阅读下面的文字，并用中文简要作答：\n\n{context}\n\n请根据上面的文字回答问题，只写出答案，不要写其他内容。\n\n问题：{input}\n回答：",
    ),
    "hotpotqa": Task("qa_f1", 32, _PASSAGES),
    "2wikimqa": Task("qa_f1", 32, _PASSAGES),
    "musique": Task("qa_f1", 32, _PASSAGES),
    "dureader": Task(
        "rouge_zh",
        128,
        "请根据下面的文章回答问题。\n\n文章：{context}\n\n请根据上面的文章回答这个问题。\n\n问题：{input}\n回答：",
    ),
    "gov_report": Task(
        "rouge",
        512,
        _around("Below is a report of a government agency.", "Summarize the report on one page.", "Report:\n", "Summary:"),
    ),
    "qmsum": Task(
        "rouge",
        512,
        _around(
            "Below is the transcript of a meeting, and then a query, which is a question or an instruction.",
            "Answer the query from the transcript in one or more sentences.",
            "Transcript:\n",
            "Query: {input}\nAnswer:",
        ),
    ),
    "multi_news": Task(
        "rouge", 512, _around("Below are several news articles.", "Summarize all the news on one page.", "News:\n", "Summary:")
    ),
    "vcsum": Task("rouge_zh", 512, "请阅读下面的会议记录，然后写一段话，总结会议的内容。\n会议记录：\n{context}\n\n会议总结："),
    "trec": Task(
        "classification",
        64,
        "Say of which type the last question is. Examples come first.\n\n{context}\n{input}",
        chat=False,
        first_line=True,
    ),
    "triviaqa": Task(
        "qa_f1",
        32,
        "Give the answer to the question alone, from the passage, without other words. Examples come first."
        "\n\n{context}\n\n{input}",
        False,
        True,
    ),
    "samsum": Task(
        "rouge",
        128,
        "Summarize the last dialogue in a few short sentences. Examples come first.\n\n{context}\n\n{input}",
        chat=False,
        first_line=True,
    ),
    "lsht": Task("classification", 64, "请判断最后一条新闻属于哪个类别，前面是一些例子。\n\n{context}\n{input}", False, True),
    "passage_count": Task(
        "count",
        32,
        "Below are paragraphs from Wikipedia, and some may be there more than once. Read them with care and find how many "
        "different paragraphs there are, counting those that repeat once.\n\n{context}\n\n"
        "Write the number of different paragraphs, and nothing but the number: 1, 2, 3 and so on.\n\nThe final answer is: ",
    ),
    "passage_retrieval_en": Task(
        "retrieval",
        32,
        "Below are 30 paragraphs from Wikipedia, and then an abstract of one of them. Find out of which.\n\n{context}\n\n"
        "This is the abstract.\n\n{input}\n\n"
        'Write which paragraph it is of, in the form "Paragraph 1", "Paragraph 2" and so on.\n\nThe answer is: ',
    ),
    "passage_retrieval_zh": Task(
        "retrieval_zh",
        32,
        "下面有若干段落，然后是其中一段的摘要。请找出它是哪一段的摘要。\n\n{context}\n\n这是摘要：\n\n{input}\n\n"
        "请写出它所属段落的编号，格式为“段落1”、“段落2”等。\n\n答案是：",
    ),
    "lcc": Task("code_sim", 64, "Write the line that comes next in this code. \n{context}Next line of code:\n", False),
    "repobench-p": Task(
        "code_sim", 64, "Write the line that comes next in this code. \n{context}{input}Next line of code:\n", False
    ),
}
