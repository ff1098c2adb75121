"""capkv-inspect at the command line: a page of a text or a session, one line and status 2 for an error."""

import re

import pytest
from commands import refusal, runner

from capkv_edge import policies
from capkv_edge.inspector import cli

FAST = ["--threads", "1", "--budget", "64", "--batch", "32"]
TEXT = "The <b>page</b> says </script><script>window.hacked = 1</script> & keeps it as text: größer, 日本.\n" * 6


@pytest.fixture
def inspect(capfd, tmp_path):
    """Run capkv-inspect in a folder with a text.txt: (status, stdout, stderr)."""
    (tmp_path / "text.txt").write_text(TEXT)
    return runner(cli.main, capfd)


@pytest.fixture
def refused(inspect):
    """Run it where it must fail with one line on stderr, before a page is written; returns the message."""
    return refusal(inspect, "capkv-inspect")


def test_a_page_of_a_text(inspect, tiny_llama, tmp_path):
    status, out, err = inspect(tiny_llama, "-f", "text.txt", "-o", "page.html", "--policy", "capkv,knorm", "--title", "{{data}} <i>", *FAST)
    assert status == 0 and re.fullmatch(r"page\.html: [\d.]+ MiB, to be opened in a browser\n", out)
    assert re.fullmatch(r"capkv: read (\d+) of \1 tokens\nknorm: read (\d+) of \2 tokens\n", err.replace("\r", ""))
    page = (tmp_path / "page.html").read_text()
    assert "<title>{{data}} &lt;i&gt; · " in page and '"title":"{{data}} \\u003ci>"' in page
    assert page.count("</script>") == 2 and "window.hacked = 1</script>" not in page
    named = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert named <= {"http://www.w3.org/2000/svg"}, "the page loads nothing"


def test_a_page_of_a_session(inspect, refused, make_llama, tiny_llama, tmp_path):
    llm = make_llama(tiny_llama, kv_budget=64, n_batch=32, kv_policy="keydiff", kv_seed=7, type_k=1, type_v=1)
    llm.eval(llm.tokenize(TEXT.encode()))
    llm.save_session("talk.session")
    status, out, err = inspect(tiny_llama, "--session", "talk.session", "-o", "page.html", "--threads", "1")
    assert status == 0 and err == "" and (tmp_path / "page.html").stat().st_size > 20_000
    assert '"name":"keydiff"' in (tmp_path / "page.html").read_text()
    said = refused(tiny_llama, "--session", "talk.session", "--budget", "32", "--policy", "capkv")
    assert said == "--budget, --policy: not with --session, which was saved with options of its own"
    full = make_llama(tiny_llama, n_ctx=512)
    full.eval([5, 6])
    full.save_session("full.session")
    assert "full.session: the session was saved without a KV budget" in refused(tiny_llama, "--session", "full.session")
    (tmp_path / "cut.session").write_bytes((tmp_path / "talk.session").read_bytes()[:5000])
    assert "cut.session: it is damaged or cut off" in refused(tiny_llama, "--session", "cut.session")


def test_what_cannot_be_done_is_said_before_a_model_is_opened(refused, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    for args, words in [
        ([], "MODEL.gguf is missing"),
        (["none.gguf"], "give a text (--file FILE) or a saved session (--session FILE), one of the two"),
        (["none.gguf", "-f", "text.txt", "--session", "a"], "one of the two"),
        (["none.gguf", "-f", "gone.txt"], "--file = gone.txt: No such file or directory"),
        (["none.gguf", "-f", "empty.txt"], "--file = empty.txt: there is no text in it"),
        (["none.gguf", "--session", "gone.session"], "gone.session"),
        (["none.gguf", "-f", "text.txt", "--policy", "capkv,best"], "--policy = best: allowed are capkv, "),
        (["none.gguf", "-f", "text.txt", "--policy", "knorm,knorm"], "--policy = knorm,knorm: allowed are up to 4 different policies"),
        (["none.gguf", "-f", "text.txt", "-o", "no/page.html"], "--output = no/page.html: there is no folder"),
        (["none.gguf", "-f", "text.txt", "-o", "."], "--output = .: it is a folder"),
        (["none.gguf", "-f", "text.txt"], "no such model file: none.gguf"),
        (["none.gguf", "-f", "text.txt", "--tokens", "0"], "--tokens"),
    ]:
        assert words in refused(*args), args


def test_a_wrong_budget_is_refused(refused, tiny_llama):
    assert "kv_budget = many: allowed is 0 (off)" in refused(tiny_llama, "-f", "text.txt", "--budget", "many")
    assert refused(tiny_llama, "-f", "text.txt", "--budget", "0").startswith("--budget = 0: without a budget all of the text is held")


def test_help_lists_every_option(inspect):
    status, out, _ = inspect("--help")
    assert status == 0
    for name in ("--file", "--session", "--output", "--policy", "--tokens", "--batch", "--budget", "--recent", "--type", "--reindex"):
        assert name in out
    status, out, _ = inspect("--policy", "help")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(policies())
