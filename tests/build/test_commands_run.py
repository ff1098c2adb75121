"""Every command line of the documents is run as it stands, on a tiny model; a measurement gets options behind it that make it short."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, commands
from llama_server import environment

from capkv_edge import Llama

LIMIT_S = 300
SETUPS = "--policy capkv --budget 128 --setup q8_0"
#: what is put behind a command, so that it takes seconds: the last of equal options counts
SHORT = {
    "capkv-bench continuation": f"--prompt 300 --length 64 --docs 1 {SETUPS}",
    "capkv-bench fidelity": "--ctx 1600 --docs 1",
    "capkv-bench longbench": f"--ctx 512 --items 1 {SETUPS}",
    "capkv-bench quick": "--minutes 3 --ctx 1024",
    "capkv-bench retrieval": f"--task niah_single_1 --length 1500 --texts 1 --min-base 0 {SETUPS}",
    "capkv-bench speed": f"-d 0,512 -p 64 -n 8 -r 1 {SETUPS}",
    "capkv-bench tune": "--ctx 1024 --docs 2 --policy capkv",
}
#: commands that need what a test does not have, and why
LEFT_OUT = {
    r"capkv-chat$": "it asks at the terminal which model: tests/chat has its picker",
    r"capkv-chat hf\.co": "it needs the hub: tests/models has a stand-in for it",
    r"--rpc 192": "these machines are not there: tests/rpc starts servers",
    r"capkv-chat demo": "make demo runs it",
    r"capkv-serve": "it serves until it is stopped: tests/serve starts it",
}


def lines() -> list:
    """The documents' commands without comments and columns of blanks."""
    return sorted({re.sub(r"\s+", " ", line.partition(" #")[0]).strip() for line in commands() if not line.startswith("make ")})


def is_left_out(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in LEFT_OUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama):
    """A folder with the files that the documents name."""
    path = tmp_path_factory.mktemp("commands")
    shutil.copy(tiny_llama, path / "model.gguf")
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    for name in ("mine.txt", "report.txt", "text.txt", "python-reference.txt"):
        (path / name).write_text(text[:16000], encoding="utf-8")
    data = path / "LongBench" / "data"
    data.mkdir(parents=True)
    item = dict(context=text[:2000], input="What?", answers=["this"], length=300, all_classes=None, _id="1", language="en")
    for name in ("qasper", "trec"):
        item = {**item, "dataset": name, "all_classes": ["this", "that"] if name == "trec" else None}
        (data / f"{name}.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    with (ROOT / "docs" / "results" / "rows.jsonl").open(encoding="utf-8") as rows:
        (path / "rows.jsonl").write_text("".join(next(rows) for _ in range(20)), encoding="utf-8")
    with Llama(path / "model.gguf", kv_budget=128, n_batch=64, n_threads=1, verbose=False) as llm:
        llm.eval(llm.tokenize(text[:400].encode()))
        llm.save_session(path / "talk.session")
    return path


@pytest.mark.parametrize("line", [line for line in lines() if not is_left_out(line)])
def test_a_command_of_a_document_runs(line, folder):
    program = " ".join(line.split()[:2])
    result = subprocess.run(
        f"{line} {SHORT.get(program, '')}",
        shell=True,
        cwd=folder,
        env=environment({"XDG_DATA_HOME": str(folder / "data"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_what_is_left_out_stands_in_the_documents():
    for pattern in LEFT_OUT:
        assert any(re.search(pattern, line) for line in lines()), pattern


def test_most_commands_are_run():
    run = [line for line in lines() if not is_left_out(line)]
    assert len(run) >= 12 and set(SHORT) <= {" ".join(line.split()[:2]) for line in run}
