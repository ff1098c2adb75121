"""The list of models, and choosing one with keys."""

import pytest
from huggingface_hub import constants
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from capkv_edge import models
from capkv_edge.chat import opening, picker
from capkv_edge.models import local

DOWN, UP, END, HOME = "\x1b[B", "\x1b[A", "\x1b[F", "\x1b[H"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path, tiny_llama):
    found = tmp_path / "models"
    found.mkdir()
    (found / "tiny.gguf").symlink_to(tiny_llama)
    (found / "a-text.gguf").write_text("hello")
    return found


def pick(models, keys):
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        return picker.pick(models)


def test_the_table_says_name_size_length_and_architecture(folder, tiny_llama, demo_model):
    n = tiny_llama.stat().st_size
    lines = picker.table(models.found(folder))
    assert [line.split() for line in lines] == [
        ["MODEL", "SIZE", "CONTEXT", "ARCHITECTURE"],
        ["demo", f"{demo_model.stat().st_size / 2**20:.1f}", "MiB", "8,192", "llama", "135M"],
        ["a-text", "5", "B", "not", "a", "model", "that", "llama.cpp", "can", "read"],
        ["tiny", f"{n / 2**20:.1f}", "MiB", "4,096", "llama"],
    ]
    assert lines[0].index("CONTEXT") + len("CONTEXT") == lines[1].index("8,192") + len("8,192")


@pytest.mark.parametrize(
    "keys, name",
    [
        ("\r", "demo"),
        (DOWN + "\r", "a-text"),
        (DOWN + DOWN + DOWN + DOWN + "\r", "tiny"),
        (DOWN + UP + UP + "\r", "demo"),
        ("jjk\r", "a-text"),
        ("3\r", "tiny"),
        ("3" + HOME + "\r", "demo"),
        (END + "\r", "tiny"),
        ("9\r", "demo"),
        ("q", None),
        ("\x03", None),
        ("\x04", None),
    ],
)
def test_keys_choose(folder, keys, name):
    assert pick(models.found(folder), keys) == name


def test_without_a_terminal_a_model_must_be_named(folder):
    with pytest.raises(ValueError, match="MODEL.gguf is missing: .*--list lists what is here"):
        opening.choose(None, None, folder, is_terminal=False)


def test_no_models_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("capkv_edge.models.find_spec", lambda name: None)
    monkeypatch.setenv(local.FOLDER_ENV, str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no models in .*none nor in the hub's cache: .*CAPKV_MODELS.*capkv-chat hf.co/"):
        opening.choose(None, None, None, is_terminal=True)


def test_a_name_of_the_hub_has_the_prefix_or_not():
    assert opening.choose(None, "a/b:Q4_0", None, False) == opening.choose(None, "hf.co/a/b:Q4_0", None, False) == "hf.co/a/b:Q4_0"
    with pytest.raises(ValueError, match="--hf = a/b: a MODEL is given already, demo"):
        opening.choose("demo", "a/b", None, False)
