"""The sampling that a model's author asks for."""

import tiny_models

from capkv_edge.models.sampling import Sampling, sampling


def test_keys_become_keywords_of_generate():
    metadata = {
        "general.name": "a",
        "general.sampling.temp": "0.600000",
        "general.sampling.top_k": "20",
        "general.sampling.top_p": "0.950000",
        "general.sampling.min_p": "0",
        "general.sampling.penalty_repeat": "1.05",
    }
    found = sampling(metadata)
    assert found.values == {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "repeat_penalty": 1.05}
    assert found.unused == [] and isinstance(found.values["top_k"], int)


def test_what_has_no_keyword_or_is_no_number_is_told():
    metadata = {"general.sampling.mirostat": "2", "general.sampling.sequence": "kdp", "general.sampling.temp": "hot"}
    assert sampling(metadata) == Sampling({}, list(metadata))
    assert sampling({}) == Sampling({}, [])


def test_a_file_with_them_has_them_when_it_is_opened(tmp_path, make_llama):
    path = tmp_path / "a.gguf"
    tiny_models.write_llama(path, sampling={"temp": 0.25, "top_k": 7})
    llm = make_llama(path, n_ctx=64)
    assert sampling(llm.metadata) == Sampling({"temp": 0.25, "top_k": 7}, [])
