"""ggml-rpc-servers under test: started on free ports of this machine, one CPU thread each, and stopped again."""

import subprocess
import time

from llama_server import environment, free_port

from capkv_edge import rpc

START_S = 20


class RpcServer:
    """One process of a program ggml-rpc-server. Its log is a file in a folder. A server serves one process at a time."""

    def __init__(self, program, folder):
        port = free_port()
        self.name = f"127.0.0.1:{port}"
        self.log_path = folder / f"rpc-{port}.log"
        with self.log_path.open("w") as log:
            command = [str(program), "-p", str(port), "-t", "1"]
            self.process = subprocess.Popen(command, env=environment({}), stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_S
        while rpc._fault(self.name, greet=True):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} does not answer:\n{self.log_path.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
