"""scripts/checks/gpu/check.sh without a GPU: what is packed suffices for a build, steps go on, and the table tells all."""

import json
import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import patch_series
import pytest
from capkv_edge import _lib
from scripts_under_test import load_script

ROOT = Path(__file__).resolve().parents[2]

gpu_build, gpu_pack, gpu_rows = (load_script(f"checks/gpu/gpu_{name}.py") for name in ("build", "pack", "rows"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An archive without the Python packages, unpacked."""
    folder = tmp_path_factory.mktemp("gpu")
    gpu_pack.pack(folder / "a.tar.gz", offline=True, without=(*gpu_pack.PACKAGES, *gpu_pack.TOOLS))
    with tarfile.open(folder / "a.tar.gz") as tar:
        tar.extractall(folder)
    assert (folder / "a.tar.gz").stat().st_size < 16 << 20
    return folder / gpu_pack.TOP


def run(folder, *args, **env):
    command = [folder / "scripts/checks/gpu/check.sh", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable, **env})


def test_the_packed_source_takes_all_patches_and_has_what_is_compiled(packed, tmp_path):
    command = [sys.executable, packed / "cmake/llama_source.py", "prepare", tmp_path / "tree", "--source", packed / "llama.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(patch_series.series())} patches" in done.stdout
    tree = tmp_path / "tree"
    for path in ("CMakeLists.txt", "src/llama.cpp", "ggml/src/ggml.c", "ggml/src/ggml-cpu/ops.cpp", "ggml/src/ggml-cuda/ggml-cuda.cu"):
        assert (tree / path).is_file()
    assert list((tree / "ggml/src/ggml-cuda/template-instances").glob("mmq*.cu"))
    assert {path.name for path in (tree / "ggml/src/ggml-vulkan").iterdir()} == {"ggml-vulkan.cpp"}  # a patch changes it
    assert not (tree / "tools/ui").exists()


def test_the_packed_source_can_be_stamped_as_a_build_is(packed, tmp_path):
    done = subprocess.run([sys.executable, packed / "cmake/build_stamp.py", tmp_path / "b.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stamp, about = json.loads((tmp_path / "b.json").read_text()), json.loads((packed / "ABOUT.json").read_text())
    assert stamp["version"] == metadata.version("capkv_edge") and stamp["commit"] == about["commit"] != ""


def test_scripts_and_tests_are_packed_and_nothing_that_was_built(packed):
    names = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert {"CMakeLists.txt", "native/capkv-api.cpp", "native/policies/capkv.cpp", "capkv_edge/chat/cli.py", "ABOUT.json"} <= names
    assert {"tests/helpers/scorer.py", "tests/helpers/reference.py"} <= names
    assert {f"scripts/checks/gpu/{path.name}" for path in (ROOT / "scripts" / "checks" / "gpu").glob("*.*")} <= names
    assert not any(name.endswith((".pyc", ".gguf")) or name.startswith(("build/", ".git/")) for name in names)
    assert os.access(packed / "scripts/checks/gpu/check.sh", os.X_OK)


def test_the_table_has_all_rows_of_this_build_and_says_what_is_missing(packed, tmp_path):
    rows = gpu_rows.Rows(gpu_rows.build_hash(packed / "build/gpu/lib"), tmp_path / "rows.jsonl")
    for step in gpu_rows.STEPS[:-1]:
        rows.add(step, "a thing | of it", "1.5 ms", True, 2)
    gpu_rows.Rows("another build", tmp_path / "rows.jsonl").add("sanitize", "of old", "0 errors", True)
    done = run(packed, "table", CAPKV_GPU_CHECK_OUT=str(tmp_path), CAPKV_GPU_CHECK_BACKEND="cpu")
    assert done.returncode == 1, done.stderr
    assert "| scorers | a thing \\| of it | 1.5 ms | ok | 2.0 |".replace("a thing \\|", "a thing |") in done.stdout.replace("\\|", "|")
    assert "| sanitize | was not run | | FAILED | |" in done.stdout and "of old" not in done.stdout
    assert (tmp_path / "table.md").read_text() in done.stdout and "5 rows, 1 failed or missing." in done.stdout
    rows.add("sanitize", "memcheck", "0 errors", True)
    done = run(packed, "table", CAPKV_GPU_CHECK_OUT=str(tmp_path), CAPKV_GPU_CHECK_BACKEND="cpu")
    assert done.returncode == 0 and "6 rows, 0 failed or missing." in done.stdout
    commit = json.loads((packed / "ABOUT.json").read_text())["commit"]
    assert "- backend: cpu\n" in done.stdout and f"- commit: {commit}" in done.stdout


def test_what_has_a_row_is_not_measured_again_and_what_failed_is(tmp_path):
    calls = []

    def measure(name, passed):
        calls.append(name)
        if passed is None:
            raise ValueError("no such device")
        return "found", passed

    for _ in range(2):
        rows = gpu_rows.Rows("b", tmp_path / "rows.jsonl")
        rows.check("models", "good", lambda: measure("good", True))
        rows.check("models", "bad", lambda: measure("bad", False))
        rows.check("models", "broken", lambda: measure("broken", None))
        with rows.path.open("a") as file:
            file.write('{"step": "models", "wh')  # as a run leaves it that was killed
    assert calls == ["good", "bad", "broken", "bad", "broken"]
    found = gpu_rows.Rows("b", tmp_path / "rows.jsonl")
    assert [row["what"] for row in found.failed("models")] == ["bad", "broken"]
    assert found.found["models", "broken"]["result"] == "ValueError: no such device"


def test_a_step_that_takes_too_long_says_so_and_an_unknown_one_is_refused(packed, tmp_path):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    done = run(packed, "models", PYTHON=str(slow), CAPKV_GPU_CHECK_LIMIT="0.1")
    assert done.returncode == 75 and "step models is not done after 0.1 s: run it again" in done.stdout
    done = run(packed, "model")
    assert done.returncode == 2 and "build, scorers, models, chat, speed, sanitize, table" in done.stderr
    done = run(packed, "scorers", CAPKV_GPU_CHECK_BACKEND="cpu")
    assert done.returncode == 1 and "nothing is built: run the step build first" in done.stderr
    done = run(packed, "table", CAPKV_GPU_CHECK_BACKEND="rocm")
    assert done.returncode == 1 and "CAPKV_GPU_CHECK_BACKEND = rocm: allowed is cuda or cpu" in done.stderr


def test_cublas_is_found_in_the_toolkit_or_in_pythons_package(tmp_path):
    toolkit, other = tmp_path / "cuda", tmp_path / "nvidia" / "cu13"
    toolkit.mkdir()
    with pytest.raises(gpu_build.Missing, match="no cuBLAS .*: neither in .*cuda nor in Python's package nvidia-cublas"):
        gpu_build.find_cublas(toolkit, [])
    for path in ("include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcublasLt.so.13"):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).touch()
    options = gpu_build.find_cublas(toolkit, [other])
    assert options[:2] == [f"-DCUDA_{name}_LIBRARY={other}/lib/lib{name}.so.13" for name in ("cublas", "cublasLt")]
    assert all(f"-isystem {other}/include" in option for option in options[2:])
    for path in ("targets/x86_64-linux/include/cublas_v2.h", "lib64/libcublas.so"):
        (toolkit / path).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / path).touch()
    assert gpu_build.find_cublas(toolkit, [other]) == []


def test_what_was_built_is_loaded_and_has_to_have_the_backend(tmp_path, monkeypatch):
    (tmp_path / "lib").symlink_to(_lib.lib_dir())
    monkeypatch.setattr(gpu_build, "BUILD", tmp_path)
    assert "CPU" in gpu_build.loaded_backends("cpu")
    with pytest.raises(gpu_build.Missing, match="the libraries load without OPENCL: they have .*CPU"):
        gpu_build.loaded_backends("opencl")
    monkeypatch.setattr(gpu_build, "BUILD", tmp_path / "empty")
    with pytest.raises(gpu_build.Missing, match="the libraries do not load: OSError: .*libllama.so"):
        gpu_build.loaded_backends("cpu")


def test_a_machine_without_a_gpu_says_how_to_compile_for_one_and_takes_options_of_cmake(tmp_path, monkeypatch):
    toolkit = tmp_path / "cuda"
    for path in ("bin/nvcc", "include/cublas_v2.h", "lib64/libcublas.so", "lib64/libcudart.so"):
        (toolkit / path).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / path).write_text("#!/bin/sh\n")
        (toolkit / path).chmod(0o755)
    monkeypatch.setenv("PATH", str(toolkit / "bin"))
    monkeypatch.delenv("CAPKV_GPU_CHECK_CHIP", raising=False)
    with pytest.raises(gpu_build.Missing, match="no NVIDIA GPU: .* CAPKV_GPU_CHECK_CHIP=9.0 compiles for one that is not here"):
        gpu_build.cuda_options()
    monkeypatch.setenv("CAPKV_GPU_CHECK_CHIP", "9.0-virtual")
    monkeypatch.setenv("CAPKV_GPU_CHECK_CMAKE", "-DGGML_CUDA_FA=OFF '-DA=b c'")
    ran = []
    monkeypatch.setattr(gpu_build, "run", lambda command, log: ran.append(command))
    monkeypatch.setattr(gpu_build, "find_tool", lambda name: name)
    monkeypatch.setattr(gpu_build, "BUILD", tmp_path)
    (tmp_path / "build.ninja").touch()
    for _ in range(2):
        gpu_build.configure("cuda", None)
    assert len(ran) == 1, "with the same options it is configured once"
    assert {"-DCMAKE_CUDA_ARCHITECTURES=90-virtual", "-DGGML_CUDA_FA=OFF", "-DA=b c"} <= set(ran[0])
    monkeypatch.setenv("CAPKV_GPU_CHECK_CHIP", "8.0")
    gpu_build.configure("cuda", None)
    assert "-DCMAKE_CUDA_ARCHITECTURES=80" in ran[1]
