"""capkv-chat finds a model: by its name on the hub, in a folder, in a list; and a thinking model's reasoning is folded."""

import os
import subprocess
import sys

import pytest
import tiny_models
from commands import runner
from hub_stand_in import Hub, serve
from huggingface_hub import constants

from capkv_edge.chat import cli
from capkv_edge.models import local

FAST = ["-p", "hi", "--threads", "1", "--temp", "0", "--max-tokens", "5", "--seed", "1"]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(local.FOLDER_ENV, str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "models").mkdir()


@pytest.fixture
def chat(capfd):
    """Run capkv-chat: (status, stdout, stderr)."""
    return runner(cli.main, capfd)


@pytest.mark.parametrize("name", [["hf.co/maker/Tiny-GGUF:F32"], ["-hf", "maker/Tiny-GGUF:f32"], ["--hf", "maker/Tiny-GGUF"]])
def test_a_model_of_the_hub_in_a_process_of_its_own(name, tiny_llama, tmp_path):
    hub = Hub("maker/Tiny-GGUF", {"Tiny-F32.gguf": tiny_llama.read_bytes()})
    with serve(hub) as address:
        env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)}
        env.pop("HF_HUB_CACHE", None)
        runs = [
            subprocess.run([sys.executable, "-m", "capkv_edge.chat.cli", *name, *FAST], capture_output=True, env=env, cwd=tmp_path)
            for _ in range(2)
        ]
    first, second = ([run.returncode, run.stdout, run.stderr.decode()] for run in runs)
    assert first[0] == second[0] == 0 and first[1] == second[1] != b"", first[2]
    assert first[2].startswith("downloading Tiny-F32.gguf of hf.co/maker/Tiny-GGUF, 1.4 MiB\nmemory: ")
    assert second[2].startswith("memory: ")
    assert len(hub.downloads()) == 1


def test_a_model_of_the_folder_by_its_name(chat, tiny_llama, tmp_path):
    (tmp_path / "models" / "tiny.gguf").symlink_to(tiny_llama)
    assert chat("tiny", *FAST)[0] == 0
    (tmp_path / "other").mkdir()
    assert chat("tiny", "--models", tmp_path / "other", *FAST)[2] == "capkv-chat: error: no such model file: tiny\n"


def test_the_list_of_models(chat, tiny_llama, tmp_path, monkeypatch):
    (tmp_path / "models" / "tiny.gguf").symlink_to(tiny_llama)
    status, out, err = chat("--list")
    assert (status, err) == (0, "") and [line.split()[0] for line in out.splitlines()] == ["MODEL", "demo", "tiny"]
    monkeypatch.setattr("capkv_edge.models.find_spec", lambda name: None)
    status, out, err = chat("--list", "--models", tmp_path / "none")
    assert (status, out) == (2, "") and err.startswith("capkv-chat: error: no models in ") and len(err.splitlines()) == 1


def test_the_sampling_that_the_author_asks_for_and_the_users_own(chat, tmp_path):
    tiny_models.write_llama(tmp_path / "a.gguf", sampling={"temp": 0.25, "top_k": 1})
    _, out, err = chat(tmp_path / "a.gguf", "-p", "hi", "--max-tokens", "20", "--threads", "1", "--seed", "1")
    assert "\nsampling, as the model asks for: temp 0.25, top_k 1\n" in err
    assert chat(tmp_path / "a.gguf", "-p", "hi", "--max-tokens", "20", "--threads", "1", "--seed", "2")[1] == out  # top_k 1 is greedy
    assert chat(tmp_path / "a.gguf", "-p", "hi", "--max-tokens", "20", "--threads", "1", "--temp", "0")[1] == out


def test_budget_auto(chat, tiny_llama):
    status, _, err = chat(tiny_llama, *FAST, "--budget", "auto")
    lines = err.splitlines()
    assert status == 0 and lines[1].startswith("budget auto: 3,264 tokens take ")
    assert lines[0].startswith("budget auto: ") and lines[2].startswith("memory: ") and lines[3].startswith("budget: 3,264 tokens")


def test_what_cannot_fit_is_refused_with_the_figures(chat, tiny_llama, monkeypatch):
    monkeypatch.setattr("capkv_edge.host_memory.available", lambda fallback=0: 1 << 20)
    status, out, err = chat(tiny_llama, *FAST)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert err.startswith("capkv-chat: error: this does not fit on CPU: weights 1.4 MiB + cache ") and "1.0 MiB are free" in err


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"


def test_reasoning_is_folded_on_the_command_line(chat, tmp_path):
    tiny_models.write_llama(tmp_path / "a.gguf", template=TEMPLATE)
    status, out, err = chat(tmp_path / "a.gguf", *FAST)
    assert (status, out) == (0, "\n")  # a model with random weights does not end what it begins
    assert "was still thinking when the reply was cut: " in err and "; /thinking shows it" in err
    _, out, err = chat(tmp_path / "a.gguf", *FAST, "--show-thinking")
    assert out == "\n" and "/thinking" not in err
