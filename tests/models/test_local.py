"""Models on this machine: in a folder, in the hub's cache, and what their headers say."""

import pytest
import tiny_models
from huggingface_hub import constants

from capkv_edge import models
from capkv_edge.models import header, local


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(local.FOLDER_ENV, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def put(path, data=b"GGUF"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_in_cache(tmp_path, repo, *names):
    folder = tmp_path / "cache" / ("models--" + repo.replace("/", "--"))
    put(folder / "refs" / "main", b"c0ffee")
    return [put(folder / "snapshots" / "c0ffee" / name) for name in names]


def test_the_folder_is_the_given_one_or_that_of_the_environment_or_models(monkeypatch, tmp_path):
    assert local.folder() == tmp_path / "home" / "models"
    monkeypatch.setenv(local.FOLDER_ENV, "~/other")
    assert local.folder() == tmp_path / "home" / "other" and local.folder("x").as_posix() == "x"


def test_a_name_in_the_folder_is_found_with_and_without_its_end(monkeypatch, tmp_path):
    path = put(tmp_path / "home" / "models" / "small" / "a.gguf")
    assert models.resolve("small/a") == models.resolve("small/a.gguf") == path
    other = put(tmp_path / "more" / "b.gguf")
    assert models.resolve("b", folder=tmp_path / "more") == other
    assert models.resolve("none").as_posix() == "none"
    here = put(tmp_path / "small" / "a.gguf")
    assert models.resolve("small/a.gguf").resolve() == here  # what is here comes first


def test_models_are_listed_by_what_to_type(tmp_path):
    put(tmp_path / "home" / "models" / "b.gguf", b"GGUF" + bytes(96))
    parts = [put(tmp_path / "home" / "models" / "big" / f"a-0000{i}-of-00002.gguf") for i in (1, 2)]
    put(tmp_path / "home" / "models" / "mmproj-b.gguf")
    put(tmp_path / "home" / "models" / "notes.txt")
    one, two, three = put_in_cache(tmp_path, "maker/Tiny-GGUF", "Tiny-Q4_0.gguf", "a/Tiny-Q8_0.gguf", "b/Tiny-Q8_0.gguf")
    assert local.models() == [
        local.Model("b", tmp_path / "home" / "models" / "b.gguf", 100),
        local.Model("big/a-00001-of-00002.gguf", parts[0], 8),
        local.Model("hf.co/maker/Tiny-GGUF:Q4_0", one, 4),
        local.Model("hf.co/maker/Tiny-GGUF:a/Tiny-Q8_0.gguf", two, 4),
        local.Model("hf.co/maker/Tiny-GGUF:b/Tiny-Q8_0.gguf", three, 4),
    ]
    assert [models.resolve(found.name) for found in local.models()] == [found.path for found in local.models()]
    assert local.models(tmp_path / "none") == local.models()[2:]


def test_no_models():
    assert local.models() == []


def test_a_header_says_architecture_and_length(tiny_llama, demo_model):
    assert header.read(tiny_llama) == header.Header("llama", 4096, "")
    assert header.read(demo_model) == header.Header("llama", 8192, "135M")


def test_headers_of_files_that_are_no_models(tiny_llama, tmp_path):
    whole = tiny_llama.read_bytes()
    assert header.read(put(tmp_path / "text.gguf", b"hello")) is None
    assert header.read(put(tmp_path / "cut.gguf", whole[:100])) is None
    assert header.read(put(tmp_path / "empty.gguf", b"")) is None
    with pytest.raises(OSError):
        header.read(tmp_path / "none.gguf")


def test_a_header_without_a_length(tmp_path):
    writer = tiny_models.new_writer(tmp_path / "a.gguf", "llama", 1, 8, 1)
    writer.kv_data[0].pop("llama.context_length")
    tiny_models.finish(writer, {"token_embd.weight": (8, 8)})
    assert header.read(tmp_path / "a.gguf") == header.Header("llama", 0, "")
