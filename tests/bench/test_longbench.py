"""capkv_edge.bench.measure.longbench: the benchmark's files, its prompts, its way of asking and its metrics."""

import builtins
import json
import string
import sys

import pytest
from fake_engine import BOS, FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from capkv_edge.bench.measure import longbench, longbench_metrics
from capkv_edge.bench.measure.longbench import load, make_prompt
from capkv_edge.bench.measure.longbench_metrics import METRICS, classification, first_line, score
from capkv_edge.bench.tasks.longbench import TASKS

# --- metrics, against values worked out by hand ---


@pytest.mark.parametrize(
    ("metric", "prediction", "truth", "expected"),
    [
        ("qa_f1", "The cat, sat!", "a cat sat", 1.0),  # articles, case and punctuation do not count
        ("qa_f1", "a big cat sat", "cat sat down there", 2 * 2 / (3 + 4)),
        ("qa_f1", "cat cat cat", "cat", 2 * 1 / (3 + 1)),  # a word counts as often as both have it
        ("qa_f1", "dog", "cat", 0.0),
        ("qa_f1", "", "cat", 0.0),
        ("qa_f1_zh", "北京。", "北京", 1.0),
        ("qa_f1_zh", "上海", "北京", 0.0),
        ("rouge", "the cat sat", "the cat sat", 1.0),
        ("rouge", "police killed the gunman", "police kill the gunman", 0.75),
        ("rouge", "", "the cat", 0.0),
        ("rouge", "...", "the cat", 0.0),
        ("rouge_zh", "今天天气很好", "今天天气很好", 1.0),
        ("rouge_zh", "北京", "上海", 0.0),
        ("count", "There are 5 or 7.", "7", 0.5),
        ("count", "7", "7", 1.0),
        ("count", "17", "7", 0.0),
        ("count", "seven", "7", 0.0),
        ("retrieval", "Paragraph 3", "Paragraph 3", 1.0),
        ("retrieval", "Paragraph 3, not 13 or 3", "Paragraph 3", 2 / 3),
        ("retrieval", "the third", "Paragraph 3", 0.0),
        ("retrieval_zh", "段落12", "段落12", 1.0),
        ("retrieval_zh", "段落1和段落2", "段落2", 0.5),
        ("code_sim", "abcd", "abcd", 1.0),
        ("code_sim", "\n\n# note\n// note\n```\nreturn x\nreturn y", "return x", 1.0),
        ("code_sim", "abxd", "abcd", 0.75),  # 2 * 3 / 8
        ("code_sim", "ab", "abcde", 0.57),  # 2 * 2 / 7 in hundredths
        ("code_sim", "# only a comment", "x", 0.0),
        ("code_sim", "", "", 1.0),
    ],
)
def test_metrics_give_what_is_worked_out_by_hand(metric, prediction, truth, expected):
    assert METRICS[metric](prediction, truth) == pytest.approx(expected, abs=1e-6)


CLASSES = ["Number", "Number of days", "Place", "Place of birth"]


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("Place", "Place", 1.0),
        ("Place or Number", "Place", 0.5),
        ("Number of days", "Number of days", 1.0),  # "Number" is a part of the true class
        ("Number of days", "Number", 0.5),  # and not the other way round
        ("Thing", "Place", 0.0),
    ],
)
def test_a_class_is_found_among_those_that_are_named(prediction, truth, expected):
    assert classification(prediction, truth, CLASSES) == expected


def test_after_a_class_that_is_left_out_the_next_one_stays_as_in_the_official_evaluation():
    classes = ["ab", "abc", "abcd"]  # both of the first are parts of the third; the second one stays
    assert classification("abcd", "abcd", classes) == 0.5


def edit_ratio(a, b):
    """2 * longest common subsequence / length of both, in hundredths."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j], row[j + 1])
    n = len(a) + len(b)
    return int(round(100 * (2 * row[-1] / n))) / 100 if n else 1.0


CODE = st.text("abc_ =()", max_size=40)


@settings(max_examples=200)
@given(CODE, CODE)
def test_similarity_of_code_is_that_of_the_longest_common_subsequence(a, b):
    assert METRICS["code_sim"](a, b) == edit_ratio(a, b)


TEXT = st.text(string.ascii_letters + string.digits + " .,\n北京上海，。", max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(METRICS)), TEXT, TEXT)
def test_scores_are_shares_and_the_truth_itself_scores_best(metric, prediction, truth):
    truth = {"retrieval": "Paragraph 3", "retrieval_zh": "段落3", "count": "3"}.get(metric, truth)
    other, same = (METRICS[metric](text, truth, [truth]) for text in (prediction, truth))
    assert 0 <= other <= 1 + 1e-9 and 0 <= same <= 1 + 1e-9
    if metric in ("retrieval", "retrieval_zh", "count", "classification"):
        assert same == 1
    if metric in ("qa_f1", "qa_f1_zh", "rouge", "rouge_zh"):
        assert other <= same + 1e-6 or same == 0


@given(st.sampled_from(["qa_f1", "code_sim"]), TEXT, TEXT)
def test_f1_and_similarity_of_lines_are_symmetric(metric, a, b):
    a, b = first_line(a), first_line(b)
    assert METRICS[metric](a, b) == METRICS[metric](b, a)


@given(TEXT, st.lists(TEXT, max_size=4))
def test_the_score_is_the_best_over_the_answers(prediction, answers):
    assert score("qa_f1", prediction, answers) == max([0.0, *(METRICS["qa_f1"](prediction, answer) for answer in answers)])


def test_the_first_line_is_the_first_that_is_not_empty():
    assert first_line("\n\nPlace\nQuestion: what") == "Place" and first_line("") == ""


@pytest.mark.parametrize(("dataset", "package"), [("gov_report", "rouge"), ("multifieldqa_zh", "jieba"), ("lcc", "rapidfuzz")])
def test_a_package_that_is_missing_is_named_with_the_command(dataset, package, tmp_path, monkeypatch):
    write(tmp_path, dataset, [item()])
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for load_package in (longbench_metrics._rouge, longbench_metrics._jieba, longbench_metrics._indel):
        load_package.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=rf"need {package}, which is not installed: pip install 'capkv-edge\[longbench\]'"):
        load(tmp_path)


# --- files ---


def item(**given):
    return {
        **dict(input="Where?", context="It is here. " * 20, answers=["here"], length=60, dataset="hotpotqa", language="en"),
        **dict(all_classes=None, _id="1"),
        **given,
    }


def write(folder, name, items):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items), encoding="utf-8")


def test_data_sets_of_a_folder_are_found_and_others_left_alone(tmp_path):
    for name in ("hotpotqa", "qasper_e", "of_mine"):
        write(tmp_path, name, [item()])
    assert [d.name for d in load(tmp_path)] == ["hotpotqa", "qasper_e"]
    qasper = load(tmp_path, ["qasper_e"])[0]
    assert qasper.task == TASKS["qasper"] and qasper.prompts == "built-in"


def test_the_benchmarks_own_prompts_and_lengths_are_preferred(tmp_path):
    write(tmp_path, "hotpotqa", [item()])
    write(tmp_path, "musique", [item()])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "dataset2prompt.json").write_text(json.dumps({"hotpotqa": "{context} {input}"}))
    (tmp_path / "dataset2maxlen.json").write_text(json.dumps({"hotpotqa": 7}))
    hotpotqa, musique = load(tmp_path)
    assert hotpotqa.task.template == "{context} {input}" and hotpotqa.task.n_max == 7
    assert hotpotqa.prompts.startswith("dataset2prompt.json ") and musique.prompts == "built-in"
    assert musique.task == TASKS["musique"]


def test_a_sample_of_items_is_the_same_for_a_seed_and_keeps_their_order(tmp_path):
    write(tmp_path, "hotpotqa", [item(_id=str(i)) for i in range(30)])
    dataset = load(tmp_path)[0]
    ids = [[i["_id"] for i in dataset.items(8, seed)] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2] and ids[0] == sorted(ids[0], key=int) and len(set(ids[0])) == 8
    assert len(dataset.items()) == 30


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: not an item"), ('{"context": "x", "input": "y"}', "line 2: not an item"), ("[]", "line 2: not an item")],
)
def test_a_line_that_is_no_item_is_named(line, message, tmp_path):
    (tmp_path / "lcc.jsonl").write_text(json.dumps(item()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)[0].items()


def test_a_missing_file_or_data_set_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="data = .*nowhere: not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there is no data set of LongBench in it"):
        load(tmp_path)
    with pytest.raises(ValueError, match="dataset = trivia: allowed are narrativeqa"):
        load(tmp_path, ["trivia"])
    with pytest.raises(FileNotFoundError, match="there is no lcc.jsonl"):
        load(tmp_path, ["lcc"])
    (tmp_path / "dataset2maxlen.json").write_text('{"lcc": "many"}')
    with pytest.raises(ValueError, match="dataset2maxlen.json: not a table of a number for each data set"):
        load(tmp_path)


# --- prompts ---


def prompt_of(name, n_ctx=100_000, **given):
    task = TASKS[name]
    dataset = longbench.Dataset(name, None, task, "built-in")
    engine = FakeEngine(chars=True)
    prompt = make_prompt(engine, dataset, {**item(**given)}, n_ctx)
    texts = [engine.detokenize(part) for part in (prompt.tokens[: prompt.n_context], prompt.tokens[prompt.n_context :])]
    return prompt, *texts


@pytest.mark.parametrize("name", TASKS)
def test_every_prompt_has_text_and_question_in_their_places(name):
    question = "What {is} it?"
    prompt, before, after = prompt_of(name, context="THE {TEXT}", input=question)
    asks = "{input}" in TASKS[name].template
    assert "THE {TEXT}" in before and question not in before
    assert after.startswith(question) if asks else before.endswith("THE {TEXT}")
    assert before.startswith("<u>") == after.endswith("<a>") == TASKS[name].chat
    assert prompt.tokens[0] == BOS and prompt.tokens.count(BOS) == 1 and prompt.n_cut == 0


@settings(max_examples=60)
@given(st.sampled_from(["hotpotqa", "trec", "gov_report"]), st.integers(700, 1500), st.integers(0, 2000), st.integers(0, 300))
def test_a_long_prompt_is_cut_in_the_middle_to_fit(name, n_ctx, n_text, n_question):
    given_ = dict(context="x" * n_text, input="q" * n_question)
    whole, *_ = prompt_of(name, **given_)
    cut, before, after = prompt_of(name, n_ctx, **given_)
    n_room = n_ctx - TASKS[name].n_max
    assert len(cut.tokens) <= n_room and len(cut.tokens) + cut.n_cut == len(whole.tokens)
    assert cut.n_cut == 0 if len(whole.tokens) <= n_room else len(cut.tokens) >= n_room - 1
    half = 200 if name != "gov_report" else 80
    assert cut.tokens[:half] == whole.tokens[:half] and cut.tokens[-half:] == whole.tokens[-half:]
    assert before.count("q" * 20) == 0 or n_question < 20


def test_no_room_for_a_prompt_is_an_error_with_the_least_n_ctx():
    with pytest.raises(ValueError, match="n_ctx = 60: allowed is 67 or more for trec"):
        prompt_of("trec", 60)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{input}", r"has no \{context\}"),
        ("{input} {context}", r"has \{input\} before \{context\}"),
        ("{context} {topic}", "a field that is not there: 'topic'"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_refused(template, message, tmp_path):
    write(tmp_path, "lcc", [item()])
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"lcc": template}))
    dataset = load(tmp_path)[0]
    with pytest.raises(ValueError, match=message):
        make_prompt(FakeEngine(chars=True), dataset, dataset.items()[0], 1000)
