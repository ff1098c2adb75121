"""Run one step of scripts/checks/gpu/check.sh: gpu_steps.py STEP

A step adds rows to the results (gpu_rows.py) and skips what has a row already. Exit status 1 if something of the step failed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
import gpu_build
from gpu_rows import OUT, Rows, build_hash, table

BACKEND = os.environ.get("CAPKV_GPU_CHECK_BACKEND", "cuda")
MODELS = Path(os.environ.get("CAPKV_GPU_CHECK_MODELS") or ROOT / "build" / "gpu-models")
LIB = gpu_build.BUILD / "lib"
GPU_LAYERS = "-1" if BACKEND == "cuda" else "0"
SMALL = BACKEND != "cuda"

# arguments of make_random_gguf.py for the models of two steps: on a GPU, and in small. A vocabulary of 259 is bytes alone: other tokens
# of a model with random weights have no text, and a chat's reply of them would be empty
_LITTLE = "--shape smollm2-135m --type Q4_0 --layers 4 --vocab 259"
CHAT = ("--shape llama-3.2-1b --type Q4_0 --vocab 259 --ctx 8192", f"{_LITTLE} --ctx 4096")[SMALL]
SPEED = ("--shape llama-3.1-8b --type Q4_K", f"{_LITTLE} --ctx 8192")[SMALL]
DEPTHS, SIZES = (("0,4096,16384,65536", "-p 512 -n 128"), ("0,600", "-p 64 -n 16 --threads 1"))[SMALL]
BUDGET = ("1024", "128")[SMALL]


def environment() -> dict[str, str]:
    """The environment of processes that use the libraries: these, this package and the packages of the archive come first."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}
    places = [ROOT, ROOT / "tests" / "helpers", ROOT / "scripts" / "checks", ROOT / "site"]
    env["PYTHONPATH"] = os.pathsep.join([*map(str, places), *filter(None, [env.get("PYTHONPATH")])])
    return {**env, "CAPKV_LIB_PATH": str(LIB), "PYTHONUNBUFFERED": "1", "CAPKV_GPU_CHECK_OUT": str(OUT)}


def run(*command, log: str, fine: tuple = (0,), **options) -> subprocess.CompletedProcess:
    """Run a process that uses the libraries, and write its output to a log.

    Raises:
        RuntimeError: its exit status is not in `fine`; the message says how it ended, and its last line.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, errors="replace", **options)
    (OUT / log).write_text(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}", encoding="utf-8")
    if done.returncode not in fine:
        from capkv_edge import crashes

        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        how = crashes.describe(words, done.returncode) or f"exit status {done.returncode}"
        raise RuntimeError(f"{how}: {last} (see {log})")
    return done


def make_model(name: str, options: str) -> Path:
    path = MODELS / f"{name}.gguf"
    if not path.exists():
        MODELS.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # so that an interrupted run leaves no half of a model
        run(sys.executable, ROOT / "scripts" / "make_random_gguf.py", part, *options.split(), log=f"model-{name}.log")
        part.rename(path)
    return path


def build(rows: Rows | None) -> Rows:
    start = time.perf_counter()
    try:
        built, passed = gpu_build.build(BACKEND, OUT), True
    except gpu_build.Missing as error:
        built, passed = str(error), False
    rows = Rows(build_hash(LIB))
    rows.add("build", f"libraries for {BACKEND}", built, passed, time.perf_counter() - start)
    return rows


def measures(step: str, rows: Rows) -> None:
    """Run a step in gpu_measure.py, which adds its rows."""
    run_shown(sys.executable, Path(__file__).with_name("gpu_measure.py"), step, rows.build)


def run_shown(*command) -> None:
    status = subprocess.call([str(word) for word in command], env=environment())
    if status:
        from capkv_edge import crashes

        print(f"gpu_check: {crashes.explain(list(command), status) or f'{command[1]} ended with {status}'}", file=sys.stderr)
        raise RuntimeError(crashes.describe(list(command), status) or f"exit status {status}")


def chat(rows: Rows) -> None:
    def talk():
        text = OUT / "chat.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"Line {i} of a text that is longer than the budget.\n" for i in range(25)))
        command = [sys.executable, "-m", "capkv_edge.chat.cli", make_model("chat", CHAT), "--budget", "256", "--headroom", "512"]
        command += ["--gpu-layers", GPU_LAYERS, "--temp", "0", "--seed", "1", "--max-tokens", "48", "--file", text]
        done = run(*command, "--verbose", log="chat.log", input="What is it about?\n/stats\n")
        evicted = next((line.strip() for line in (done.stderr + done.stdout).splitlines() if line.startswith("evicted")), "")
        return f"reply of {len(done.stdout)} characters; {evicted or 'nothing was evicted'}", bool(done.stdout.strip() and evicted)

    rows.check("chat", "capkv-chat over a text, budget 256", talk)


def speed(rows: Rows) -> None:
    model = make_model("speed", SPEED)
    store = OUT / f"speed-{rows.build}.jsonl"
    command = [sys.executable, "-c", "import sys; from capkv_edge.bench.cli import main; sys.exit(main())", "speed", model]
    command += ["-d", DEPTHS, *SIZES.split(), "-r", "1", "--policy", "capkv,streaming", "--budget", BUDGET, "--setup", "q8_0"]
    command += ["--gpu-layers", GPU_LAYERS, "--rows", store, "--limit", "90", "-o", "md"]
    run(*command, log="speed.log")
    for line in store.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        what = f"{row['setup']}, {row['test']}"
        rate = f"{row['avg_ts']:.1f} tok/s" if row["avg_ts"] else row["error"]
        share = f", evictions {row['evict_share']:.1%}" if row.get("evict_share") else ""
        peak = f", {row['bytes_device'] / 2**30:.2f} GiB on the device" if row.get("bytes_device") else ""
        if ("speed", what) not in rows.found:
            rows.add("speed", what, f"{rate}{share}{peak}", None if row["avg_ts"] or row.get("over_limit") else False)
    measures("evictions", rows)


def sanitize(rows: Rows) -> None:
    tool = shutil.which("compute-sanitizer") or next(map(str, Path("/usr/local").glob("cuda*/bin/compute-sanitizer")), None)
    if tool is None or BACKEND != "cuda":
        why = "no compute-sanitizer here" if tool is None else f"nothing to watch on {BACKEND}"
        rows.add("sanitize", "compute-sanitizer", f"left out: {why}", None if BACKEND != "cuda" else False)
        return
    for name in ("memcheck", "racecheck", "initcheck", "synccheck"):

        def watch(name=name):
            command = [tool, "--tool", name, "--error-exitcode", "9", "--print-limit", "20"]
            command += [sys.executable, Path(__file__).with_name("gpu_measure.py"), "tiny", rows.build]
            done = run(*command, log=f"sanitize-{name}.log", fine=(0, 9), timeout=480)
            found = [line.strip(" =") for line in done.stdout.splitlines() if "SUMMARY" in line]
            return (found or ["no summary"])[-1], bool(found) and done.returncode == 0

        rows.check("sanitize", f"compute-sanitizer --tool {name}, a tiny model", watch)


def about() -> dict[str, str]:
    """The machine and the versions, for the table's head."""
    gpu = gpu_build.ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    try:
        packed = json.loads((ROOT / "ABOUT.json").read_text(encoding="utf-8"))
    except OSError:
        packed = dict(commit=gpu_build.ask("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"))
    nvcc = gpu_build.ask("sh", "-c", "nvcc --version | tail -1")
    found = {"backend": BACKEND, "GPU": gpu, "nvcc": nvcc, "commit": packed.get("commit", ""), "llama.cpp": packed.get("pin", "")}
    found |= {"processor": platform.processor() or platform.machine(), "cores": str(os.cpu_count()), "Python": platform.python_version()}
    return {name: value for name, value in {**found, "date": time.strftime("%Y-%m-%d")}.items() if value}


def main() -> int:
    if BACKEND not in ("cuda", "cpu"):
        sys.exit(f"gpu_check: CAPKV_GPU_CHECK_BACKEND = {BACKEND}: allowed is cuda or cpu")
    step = sys.argv[1]
    rows = Rows(build_hash(LIB))
    if step == "build":
        rows = build(rows)
    elif step == "table":
        text = table(rows, about())
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "table.md").write_text(text, encoding="utf-8")
        print(text)
        return 1 if rows.failed() or rows.missing() else 0
    elif not any(LIB.glob("libllama.*")):
        sys.exit("gpu_check: nothing is built: run the step build first")
    else:
        sys.path[1:1] = environment()["PYTHONPATH"].split(os.pathsep)
        what = "the step"
        try:
            {"chat": chat, "speed": speed, "sanitize": sanitize}.get(step, lambda rows: measures(step, rows))(rows)
            rows = Rows(rows.build)
            if rows.found.get((step, what), {}).get("passed") is False:
                rows.add(step, what, "went to its end when it was run again", None)  # replaces the failure
        except Exception as error:
            rows.add(step, what, f"{type(error).__name__}: {error}", False)
    return 1 if rows.failed(step) else 0


if __name__ == "__main__":
    sys.exit(main())
