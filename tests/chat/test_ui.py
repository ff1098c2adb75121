"""The UIs: inputs of several lines from a pipe, wrapped words, and replies apart from everything else."""

from capkv_edge.chat.ui import PlainUI, WordWrap


def inputs(*lines):
    ui, found = PlainUI(lines), []
    while True:
        try:
            found.append(ui.ask())
        except EOFError:
            return found


def test_lines_from_a_pipe():
    assert inputs("one\n", "\n", "two") == ["one", "", "two"]
    assert inputs("one\\\n", "two\n", "three\n") == ["one\\\ntwo", "three"]
    assert inputs('"""one\n', "two\n", 'three"""\n', "four") == ['"""one\ntwo\nthree"""', "four"]
    assert inputs('"""never closed\n', "two") == ['"""never closed\ntwo']


def test_answers_go_to_stdout_and_the_rest_to_stderr(capsys):
    ui = PlainUI()
    ui.write("an ")
    ui.write("answer")
    ui.end()
    ui.info("a [note]")
    ui.error("a mistake")
    with ui.progress("reading") as update:
        update(1, 2)
        update(2, 2)
    assert tuple(capsys.readouterr()) == ("an answer\n", "a [note]\nerror: a mistake\n")


def wrapped(text, width):
    wrap = WordWrap()
    return "".join(wrap.feed(char, width) for char in text) + wrap.flush(width)


def test_words_are_not_broken():
    assert wrapped("the quick brown fox", 10) == "the quick \nbrown fox"
    assert wrapped("the quick brown fox", 9) == "the quick\nbrown fox"
    assert wrapped("a\n\n  b", 10) == "a\n\n  b"


def test_a_word_wider_than_the_line_is_shown_whole():
    assert wrapped("x" * 25, 10).replace("\n", "") == "x" * 25
    assert wrapped("日本語" * 5, 10).replace("\n", "") == "日本語" * 5
    assert wrapped("", 10) == ""
