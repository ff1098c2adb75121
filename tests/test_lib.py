"""Which libraries are loaded, and the errors when they are missing or of another build."""

import os
import shutil
import subprocess
import sys

import pytest

import capkv_edge
from capkv_edge import _lib

PACKAGE_PARENT = os.path.dirname(os.path.dirname(capkv_edge.__file__))


def run(code, **env):
    path = os.pathsep.join([PACKAGE_PARENT, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True
    )


def test_llama_cpp_loads_our_library():
    _, lib = _lib.load()
    import llama_cpp.llama_cpp as native

    assert os.path.dirname(native._lib._name) == str(_lib.lib_dir())
    assert lib.capkv_n_options() > 0


@pytest.fixture
def other_libs(tmp_path):
    """A copy of the libraries: another llama.cpp, as far as a process can tell."""
    folder = tmp_path / "other"
    shutil.copytree(_lib.lib_dir(), folder)
    return str(folder)


def test_llama_cpp_imported_first_with_other_libraries_is_refused(other_libs):
    done = run("import llama_cpp\nimport capkv_edge", LLAMA_CPP_LIB_PATH=other_libs)
    assert done.returncode == 1
    assert "ImportError: llama_cpp was imported before capkv_edge and has loaded " + other_libs in done.stderr
    assert "import capkv_edge first" in done.stderr


def test_llama_cpp_imported_first_with_our_libraries_is_fine():
    done = run("import llama_cpp\nimport capkv_edge\ncapkv_edge.Llama", LLAMA_CPP_LIB_PATH=str(_lib.lib_dir()))
    assert done.returncode == 0, done.stderr


def test_missing_libraries_name_folder_and_command(tmp_path):
    done = run("import capkv_edge\ncapkv_edge.Llama", CAPKV_LIB_PATH=str(tmp_path))
    assert done.returncode == 1
    assert f"in {tmp_path}: `pip install .`" in done.stderr


def test_command_line_without_libraries_is_one_line(tmp_path):
    done = run("import sys\nfrom capkv_edge.chat.cli import main\nsys.exit(main(['demo']))", CAPKV_LIB_PATH=str(tmp_path))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("capkv-chat: error: no libllama")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(capkv_edge, "nonsense")  # noqa: B009
    assert set(capkv_edge.__all__) == set(dir(capkv_edge))
