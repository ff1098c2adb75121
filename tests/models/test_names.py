"""Which file of many is meant: by its quantization, by its name, or by nothing."""

import pytest

from capkv_edge.models import names

FILES = ["Tiny-1B-Q4_K_M.gguf", "Tiny-1B-Q8_0.gguf", "Tiny-1B-IQ2_XXS.gguf", "mmproj-Tiny-F16.gguf", "README.md"]
SPLIT = [f"BF16/Tiny-1B-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "name, quant",
    [
        ("Tiny-1B-Q4_K_M.gguf", "Q4_K_M"),
        ("tiny-1b.q8_0.gguf", "Q8_0"),
        ("tiny_iq4_nl.gguf", "IQ4_NL"),
        ("Tiny-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("BF16/Tiny-BF16-00001-of-00003.gguf", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("tiny-tq1_0.gguf", "TQ1_0"),
        ("tiny.gguf", ""),
        ("Qwen3.gguf", ""),
        ("q4_0.gguf", "Q4_0"),
    ],
)
def test_the_quantization_in_a_name(name, quant):
    assert names.quant(name) == quant


def test_models_among_files():
    assert names.models(FILES + SPLIT) == {
        "BF16/Tiny-1B-BF16": SPLIT,
        "Tiny-1B-IQ2_XXS": ["Tiny-1B-IQ2_XXS.gguf"],
        "Tiny-1B-Q4_K_M": ["Tiny-1B-Q4_K_M.gguf"],
        "Tiny-1B-Q8_0": ["Tiny-1B-Q8_0.gguf"],
    }
    assert names.models(SPLIT[1:]) == names.models(SPLIT[:2]) == names.models([SPLIT[0], SPLIT[2]]) == {}


@pytest.mark.parametrize(
    "wanted, files",
    [
        ("Q8_0", ["Tiny-1B-Q8_0.gguf"]),
        ("q8_0", ["Tiny-1B-Q8_0.gguf"]),
        ("", ["Tiny-1B-Q4_K_M.gguf"]),
        ("Tiny-1B-IQ2_XXS.gguf", ["Tiny-1B-IQ2_XXS.gguf"]),
        ("BF16", SPLIT),
        (SPLIT[0], SPLIT),
        ("Tiny-1B-BF16", SPLIT),
    ],
)
def test_the_file_that_is_meant(wanted, files):
    assert names.choose(FILES + SPLIT, wanted, "here") == files


def test_without_a_name_it_is_a_usual_one_or_the_only_one():
    assert names.choose(["a-Q8_0.gguf", "a-F16.gguf"], "", "here") == ["a-Q8_0.gguf"]
    assert names.choose(["a-F16.gguf"], "", "here") == ["a-F16.gguf"]
    assert names.choose(["a-UD-Q4_K_XL.gguf", "a-F16.gguf"], "Q4_K_XL", "here") == ["a-UD-Q4_K_XL.gguf"]


@pytest.mark.parametrize(
    "files, wanted, kind, message",
    [
        (FILES, "Q5_K_M", FileNotFoundError, "here has no Q5_K_M, but IQ2_XXS, Q4_K_M, Q8_0"),
        (["a-F16.gguf", "a-F32.gguf"], "", ValueError, "here has several files, name one as :QUANT: F16, F32"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", ValueError, "here has several files of Q8_0, name one: a-Q8_0.gguf, b-Q8_0.gguf"),
        (["README.md", "mmproj-F16.gguf"], "", FileNotFoundError, "here has no GGUF file of a model"),
    ],
)
def test_a_choice_that_cannot_be_made_lists_what_there_is(files, wanted, kind, message):
    with pytest.raises(kind) as err:
        names.choose(files, wanted, "here")
    assert str(err.value) == message
