"""The llama-server of this package: where it is, and the command that starts it."""

import os
import sys
from pathlib import Path

from .._lib import lib_dir

NAME = "llama-server.exe" if sys.platform == "win32" else "llama-server"


def find() -> Path:
    """The program that CAPKV_SERVER names, or the one beside the libraries; in a checkout, the one that was built with them.

    Raises:
        FileNotFoundError: there is none; names the places and what builds it.
    """
    if named := os.environ.get("CAPKV_SERVER"):
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"CAPKV_SERVER = {named}: no such program")
        return Path(named)
    places = (lib_dir() / NAME, lib_dir().parent / "bin" / NAME)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no llama-server in {places[0].parent}: the package was built without it; -DCAPKV_SERVER=ON in CMAKE_ARGS builds it, "
        "and CAPKV_SERVER names another one"
    )


def page_folder() -> Path | None:
    """The folder of the web page that is served at /, if the package has it."""
    folder = Path(__file__).resolve().parent / "page"
    return folder if (folder / "index.html").is_file() else None


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach what listens there."""
    return all(name == "localhost" or name.startswith("127.") or name == "::1" or name.endswith(".sock") for name in host.split(","))


def start(command: list, env: dict) -> int:
    """Become the program, so that signals and the exit status are its own; on Windows run it and return its exit status."""
    os.umask(0o077)  # files of saved slots hold conversations
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":
        import subprocess

        return subprocess.run(command, env=env).returncode
    os.execve(command[0], command, env)
