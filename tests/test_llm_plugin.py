"""The plugin of the command `llm`, in the command itself."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("llm")


@pytest.fixture
def run_llm(tmp_path, demo_model):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small.gguf").symlink_to(demo_model)
    own = dict(LLM_USER_PATH=str(tmp_path / "llm"), LLM_LOAD_PLUGINS="capkv-edge", CAPKV_MODELS=str(folder), HF_HOME=str(tmp_path / "hub"))

    def run(*args, status=0, given=None):
        command = [shutil.which("llm", path=os.path.dirname(sys.executable)), *args]
        done = subprocess.run(command, env={**os.environ, **own}, input=given, capture_output=True, text=True, timeout=500)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


def test_the_models_that_are_here(run_llm):
    listed = run_llm("models", "list")
    assert "CapkvModel: capkv/demo" in listed and "CapkvModel: capkv/small" in listed


def test_a_reply_that_is_logged_and_gone_on_with(run_llm):
    options = ("-m", "capkv/demo", "-o", "budget", "96", "-o", "temperature", "0", "-o", "max_tokens", "12")
    reply = run_llm(*options, "-s", "Answer in one word.", "What is the capital of France?")
    assert "Paris" in reply
    assert run_llm("-c", *options, "--no-stream", "And of Italy?").strip()
    first, second = json.loads(run_llm("logs", "list", "--json", "-n", "2"))
    assert first["conversation_id"] == second["conversation_id"] and first["response"] == reply.rstrip("\n")
    assert first["response_json"] == {"kv": {"budget": 96, "held": first["input_tokens"] + first["output_tokens"], "evicted": 0}}
    assert second["input_tokens"] > first["input_tokens"] > 20 and 0 < first["output_tokens"] <= 12


def test_a_chat_keeps_the_model_open(run_llm):
    out = run_llm("chat", "-m", "capkv/demo", "-o", "max_tokens", "8", "-o", "temperature", "0", given="Say hello.\nAnd goodbye.\nexit\n")
    assert out.count("\n> ") == 3 and "Chatting with capkv/demo" in out


def test_a_schema(run_llm):
    options = ("-o", "max_tokens", "40", "-o", "temperature", "0", "--schema", "city, country")
    out = run_llm("-m", "capkv/demo", *options, "The capital of France is Paris.")
    assert list(json.loads(out)) == ["city", "country"]


@pytest.mark.parametrize(
    "option, message",
    [(("budget", "3"), "budget = 3"), (("temperature", "-1"), "greater than or equal to 0"), (("no_such", "1"), "no_such")],
)
def test_an_option_that_is_not_allowed(run_llm, option, message):
    assert message in run_llm("-m", "capkv/demo", "-o", *option, "Hello!", status=1)
