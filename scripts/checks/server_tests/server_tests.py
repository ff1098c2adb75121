"""Run those of llama.cpp's server tests that need no download, without a budget and with one: server_tests.py [options]

Prints for each file how many tests passed, failed and were left out; the tables below have the reason for each one left out.
Exit status 1 if one failed. Needs llama-server (make tools) and the packages that the tests import:

    pip install requests openai aiohttp filelock prometheus-client pytest
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "cmake"))
sys.path.append(str(ROOT))  # for a package that is not installed
import llama_source
from server_stand_in import write_stand_in

from capkv_edge import crashes

PARTS = ("tools/server/tests/", "models/", "tools/mtmd/test-1.jpeg")
VOCABULARY = "models/ggml-vocab-llama-spm.gguf"

TEXT = "asks for the words or the token counts of the model that is downloaded"
IMAGES = "needs a multimodal model that is downloaded"
NO_UI = "needs the web UI, which is not built here"
NETWORK = "fetches a page from the network"
ROUTER = "needs models that are downloaded"

# left out of both runs: {a file, a test, or the start of a test's id with a star: why}
LEFT_OUT = {
    "unit/test_embedding.py": "needs an embedding model that is downloaded (and an encoder cannot have a budget)",
    "unit/test_rerank.py": "needs a reranking model that is downloaded (and an encoder cannot have a budget)",
    "unit/test_vision_api.py": IMAGES,
    "unit/test_tools_builtin.py::test_tools_builtin_grep_search": "searches llama.cpp's own git checkout",
    "unit/test_lora.py": "needs an adapter that is downloaded, and its model",
    "unit/test_router.py": ROUTER,
    "unit/test_basic.py::test_load_split_model": "needs a split model that is downloaded",
    "unit/test_basic.py::test_no_ui": NO_UI,
    "unit/test_chat_completion.py::test_chat_completion[None-Book*": TEXT,
    "unit/test_chat_completion.py::test_chat_completion[codellama70b*": TEXT,
    "unit/test_chat_completion.py::test_chat_completion_cached_tokens": TEXT,
    "unit/test_chat_completion.py::test_chat_completion_stream[Book*": TEXT,
    "unit/test_chat_completion.py::test_chat_completion_with_openai_library": TEXT,
    "unit/test_chat_completion.py::test_completion_with_json_schema[True-json_schema1*": TEXT,
    "unit/test_chat_completion.py::test_return_progress[64-4-False]": TEXT,
    "unit/test_compat_anthropic.py::test_anthropic_vision*": IMAGES,
    "unit/test_compat_oai_responses.py::test_responses_with_openai_library": TEXT,
    "unit/test_compat_oai_responses.py::test_responses_stream_with_openai_library": TEXT,
    "unit/test_completion.py::test_completion": TEXT,
    "unit/test_completion.py::test_completion_stream": TEXT,
    "unit/test_completion.py::test_completion_with_openai_library": TEXT,
    "unit/test_completion.py::test_completion_stream_with_openai_library": TEXT,
    "unit/test_completion.py::test_nocache_long_input_prompt": TEXT,
    "unit/test_completion.py::test_completion_prompt_cache": TEXT,
    "unit/test_ctx_shift.py::test_ctx_shift_enabled": TEXT,
    "unit/test_ctx_shift.py::test_ctx_shift_disabled_short_prompt[-1*": TEXT,
    "unit/test_ctx_shift.py::test_ctx_shift_disabled_long_prompt": TEXT,
    "unit/test_infill.py::test_infill_with*": TEXT,
    "unit/test_metrics.py::test_metrics_embedding*": "needs an embedding model that is downloaded",
    "unit/test_proxy.py::test_mcp_proxy": NETWORK,
    "unit/test_security.py::test_access_static_assets_without_api_key": NO_UI,
    "unit/test_security.py::test_local_media_file": IMAGES,
    "unit/test_slot_save.py::test_slot_save_restore*": "counts the tokens of the model that is downloaded, or needs a multimodal one",
    "unit/test_slot_save.py::test_slot_restore_legacy_token_list": TEXT,
    "unit/test_slot_save.py::test_slot_restore_media*": IMAGES,
    "unit/test_slot_save.py::test_slot_erase": TEXT,
    "unit/test_speculative.py::test_multi_requests_parallel": TEXT,
    "unit/test_stream.py": ROUTER,
    # random weights decide whether an answer parses as a tool call, and they differ with the processor's arithmetic
    "unit/test_tool_call.py::test_completion_without_tool_call_fast[meta-llama-Llama-3.3-70B-Instruct-128-tools1*": TEXT,
}

# left out of the run with a budget, since a budget changes on purpose what they test
LEFT_OUT_WITH_BUDGET = {
    "unit/test_kv_keep_only_active.py::test_clear_and_restore":
        "wants an idle slot cleared for the others' sake: with a budget slots share no cells, and an idle one keeps its own",
    "unit/test_speculative.py::test_with_ctx_shift":
        "wants the context shifted: with a budget it is not, a context that is full ends the reply",
}


def unpack(folder: Path) -> Path:
    """Copy the tests and the files that they read into a folder, laid out as in llama.cpp, from LLAMA_CPP_DIR or the pinned source."""
    if named := os.environ.get("LLAMA_CPP_DIR"):
        for part in PARTS:
            source, target = Path(named) / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        return folder
    try:
        sdist = llama_source.get_sdist()
    except llama_source.SourceError as error:
        raise SystemExit(f"capkv: {error}") from error
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = member.name.partition("/vendor/llama.cpp/")[2]
            if member.isfile() and name.startswith(PARTS):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
    return folder


def run(folder: Path, binary: Path, left_out: dict, budget: str | None, port: int, files: list[str]) -> dict[str, str]:
    """Run the tests once; returns {test id: outcome}."""
    tests = folder / "tools/server/tests"
    outcomes = folder / "outcomes.json"
    outcomes.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}
    env |= {
        "STAND_IN": str(folder / "stand-in.gguf"),
        "LEFT_OUT": json.dumps(left_out),
        "OUTCOMES": str(outcomes),
        "LLAMA_SERVER_BIN_PATH": str(binary.resolve()),
        "LLAMA_ARG_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PORT": str(port),
        "PYTHONPATH": str(Path(__file__).parent),  # of the plugin
    }
    if budget:
        env["LLAMA_ARG_KV_BUDGET"] = budget
    log = folder / f"{'budget' if budget else 'plain'}.log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "pytest", "-p", "server_tests_plugin", "--tb=short", "-q", *(files or ["unit"])]
        done = subprocess.run(command, cwd=tests, env=env, stdout=out, stderr=subprocess.STDOUT)
    if not outcomes.exists():
        said = crashes.explain(command, done.returncode)
        raise SystemExit(f"{log.read_text()[-2000:]}\ncapkv: the tests did not run to their end{said and ': ' + said}")
    return json.loads(outcomes.read_text())


def kind(outcome: str) -> str:
    return "left out" if outcome.startswith("left out") else outcome


def print_table(title: str, outcomes: dict[str, str]) -> int:
    """Print the counts of each file; returns the number of failed tests."""
    counts: dict[str, Counter] = {}
    for test, outcome in outcomes.items():
        counts.setdefault(test.partition("::")[0].removeprefix("unit/"), Counter())[kind(outcome)] += 1
    kinds = ("passed", "failed", "left out", "skipped")
    print(f"\n{title}\n{'file':32}" + "".join(f"{name:>10}" for name in kinds))
    for file, count in sorted(counts.items()) + [("all", sum(counts.values(), Counter()))]:
        print(f"{file:32}" + "".join(f"{count[name]:>10}" for name in kinds))
    failed = [test for test, outcome in outcomes.items() if outcome == "failed"]
    print("\n".join(f"FAILED {test}" for test in failed))
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="run only these, as unit/test_basic.py")
    parser.add_argument("--binary", type=Path, default=ROOT / "build/tools/bin/llama-server")
    parser.add_argument("--budget", default="64", help="LLAMA_ARG_KV_BUDGET of the second run (default: %(default)s)")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--reasons", action="store_true", help="also print why each test was left out")
    args = parser.parse_args()
    if not args.binary.is_file():
        parser.error(f"no llama-server at {args.binary}: run make tools, or name it with --binary")

    folder = unpack(ROOT / "build/server-tests")
    write_stand_in(folder / VOCABULARY, folder / "stand-in.gguf")
    plain = run(folder, args.binary, LEFT_OUT, None, args.port, args.files)
    bounded = run(folder, args.binary, LEFT_OUT | LEFT_OUT_WITH_BUDGET, args.budget, args.port, args.files)
    failed = print_table("without a budget", plain) + print_table(f"LLAMA_ARG_KV_BUDGET={args.budget}", bounded)
    if args.reasons:
        print("\n" + "\n".join(f"{test}: {outcome}" for test, outcome in bounded.items() if kind(outcome) == "left out"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
