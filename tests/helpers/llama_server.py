"""A llama-server under test: started on a free port, stopped again, and spoken to over HTTP."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("build/wheel/bin", "build/tools/bin")
THREADS = int(os.environ.get("CAPKV_TEST_THREADS", "1"))
START_S = 60 * int(os.environ.get("CAPKV_TEST_PATIENCE", "1"))  # more under a sanitizer


def find_binary() -> Path:
    """CAPKV_SERVER, or what `make test` and `make tools` build: the newer one."""
    if named := os.environ.get("CAPKV_SERVER"):
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"CAPKV_SERVER = {named}: no such program")
        return Path(named)
    found = [ROOT / place / "llama-server" for place in PLACES if (ROOT / place / "llama-server").is_file()]
    if not found:
        raise FileNotFoundError(
            f"no llama-server in {' or '.join(PLACES)}: `make test` or `make tools` builds it, or CAPKV_SERVER names another"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def environment(extra: dict) -> dict:
    """The caller's, without its options for llama.cpp."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    return env | {"OMP_NUM_THREADS": "1"} | extra


def run_to_end(model, *args, env=None) -> subprocess.CompletedProcess:
    """A server that refuses to start: exit status and what it wrote, one stream."""
    command = [find_binary(), "-m", model, "--port", free_port(), "-t", 1, "--no-ui", *args]
    return subprocess.run(
        [str(word) for word in command], env=environment(env or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=START_S
    )


class Answer(dict):
    """The JSON of a reply, with its HTTP status."""

    status: int


class Server:
    """One process; options as on its command line: Server(model, folder, "--kv-budget", 64)."""

    def __init__(self, model, folder: Path, *args, env=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / f"server-{self.port}.log"
        shared = ["--port", self.port, "-t", THREADS, "-tb", THREADS, "--no-ui", "--offline", "--temp", 0, "--slots", "--metrics"]
        if os.environ.get("CAPKV_TEST_WITHOUT_BUDGET"):  # for a comparison with unpatched llama.cpp
            args = _without_budget(args)
        command = [find_binary(), "-m", model, *shared, "-lv", 4, *args]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], env=environment(env or {}), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"llama-server exited with {self.process.returncode}:\n{self.log()}")
            try:
                if self.get("/health").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise TimeoutError(f"llama-server was not ready after {START_S} s:\n{self.log()}")

    def stop(self) -> int:
        """Ask it to end, wait, and kill it if it does not; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=START_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    @staticmethod
    def pause(seconds: float) -> None:
        time.sleep(seconds)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def caches(self) -> list:
        """(cells, streams) of the caches in the order that they were made: a draft's is the last."""
        found = re.findall(r"llama_kv_cache: size = .* MiB \( *(\d+) cells, .* \d+/(\d+) seqs\)", self.log())
        return [(int(cells), int(streams)) for cells, streams in found]

    # ---

    def request(self, path: str, body: dict | None = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=START_S) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        answer = Answer(_json(text))
        answer.status = status
        return answer

    def get(self, path: str) -> Answer:
        return self.request(path)

    def post(self, path: str, **body) -> Answer:
        return self.request(path, body)

    def stream(self, path: str, **body) -> list:
        """The JSON objects of a streamed answer."""
        data = json.dumps({"stream": True, **body}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_S) as reply:
            lines = [line.removeprefix(b"data: ") for line in reply if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]

    def metrics(self) -> dict:
        """{name without "llamacpp:": value} of /metrics."""
        lines = self.get("/metrics")["text"].splitlines()
        return {name.removeprefix("llamacpp:"): float(value) for name, value in (line.split() for line in lines if line[:1] != "#")}

    def complete(self, prompt, n: int = 16, slot: int = 0, **more) -> Answer:
        """/completion of token ids or text, greedy, in the slot named; ends after n tokens and not before."""
        body = {"prompt": prompt, "n_predict": n, "id_slot": slot, "temperature": 0, "cache_prompt": True, "ignore_eos": True}
        answer = self.post("/completion", **body, return_tokens=True, **more)
        if answer.status != 200:
            raise RuntimeError(f"/completion answered {answer.status}: {answer}")
        return answer

    def slot(self, slot: int, action: str, filename: str = "slot.bin") -> Answer:
        return self.post(f"/slots/{slot}?action={action}", filename=filename)


def _without_budget(args: tuple) -> list:
    skipped = {i + step for i, word in enumerate(args) if str(word).startswith("--kv-") for step in (0, 1) if word != "--kv-unified"}
    return [word for i, word in enumerate(args) if i not in skipped]


def _json(text: bytes):
    try:
        value = json.loads(text)
    except ValueError:
        value = {"text": text.decode(errors="replace")}
    return value if isinstance(value, dict) else {"list": value}
