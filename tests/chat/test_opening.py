"""Opening a model: what is said before it is loaded, what its author asks for, what is refused."""

import re

import pytest
import tiny_models

from capkv_edge import host_memory
from capkv_edge.chat import opening
from capkv_edge.llama.memory import DoesNotFitError

KEYWORDS = dict(verbose=False, n_threads=1, n_threads_batch=1, kv_budget="600")


@pytest.fixture
def open_model():
    """opening.open_model(): (the Llama, its sampling, what was said)."""
    opened = []

    def run(name, **keywords):
        said = []
        llm, sampling = opening.open_model(str(name), None, KEYWORDS | keywords, said.append)
        opened.append(llm)
        return llm, sampling, said

    yield run
    for llm in opened:
        llm.close()


def test_the_memory_is_said_before_it_is_taken(open_model, tiny_llama):
    llm, sampling, said = open_model(tiny_llama)
    assert llm.kv_config.budget == 600 and sampling == {} and len(said) == 1
    assert re.fullmatch(r"memory: weights 1.4 MiB \+ cache [\d.]+ KiB \+ work [\d.]+ MiB = [\d.]+ MiB of [\d.]+ GiB free on CPU", said[0])


def test_without_a_budget_too(open_model, tiny_llama):
    _, _, said = open_model(tiny_llama, kv_budget="0", n_ctx=512)
    assert len(said) == 1 and said[0].startswith("memory: weights 1.4 MiB + cache 256.0 KiB + work ")


def test_auto_shows_its_arithmetic(open_model, tiny_llama, monkeypatch):
    monkeypatch.setattr(host_memory, "available", lambda fallback=0: 1 << 33)
    llm, _, said = open_model(tiny_llama, kv_budget="auto")
    assert llm.kv_config.budget == 3264 and llm.is_endless
    assert said[0].startswith("budget auto: 8.0 GiB free on CPU - weights 1.4 MiB - work ") and " - margin 819.2 MiB = " in said[0]
    assert said[1].startswith("budget auto: 3,264 tokens take ") and said[2].startswith("memory: ")
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "auto")
    assert open_model(tiny_llama, kv_budget=None)[0].kv_config.budget == 3264


def test_what_cannot_fit_is_not_loaded(open_model, tiny_llama, monkeypatch):
    monkeypatch.setattr(host_memory, "available", lambda fallback=0: 1 << 20)
    monkeypatch.setattr(opening, "Llama", None)
    with pytest.raises(DoesNotFitError, match="this does not fit on CPU: weights 1.4 MiB .* and 1.0 MiB are free"):
        open_model(tiny_llama)


def test_the_sampling_that_the_author_asks_for(open_model, tmp_path):
    tiny_models.write_llama(tmp_path / "a.gguf", sampling={"temp": 0.25, "top_k": 7, "xtc_threshold": 0.5})
    _, sampling, said = open_model(tmp_path / "a.gguf")
    assert sampling == {"temp": 0.25, "top_k": 7}
    assert said[1:] == [
        "sampling, as the model asks for: temp 0.25, top_k 7",
        "note: the model asks for more, which is left out: general.sampling.xtc_threshold",
    ]


def test_errors_are_those_of_llama(open_model, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    tiny_models.write_mamba(tmp_path / "mamba.gguf")
    for name, kind, message in [
        ("none.gguf", FileNotFoundError, "no such model file: none.gguf"),
        (tmp_path / "text.gguf", ValueError, "not a GGUF file"),
        (tmp_path / "mamba.gguf", ValueError, "the architecture 'mamba'"),
    ]:
        with pytest.raises(kind, match=message):
            open_model(name)
    with pytest.raises(ValueError, match="kv_budget = much: allowed is 0 .off., a number"):
        open_model("demo", kv_budget="much")
