"""The command line of capkv-inspect: reads a text or a session, and writes the page."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import command, table_options
from ..command import option
from ..config import options, policies

BUDGET = "1024"
MAX_POLICIES = 4


def _app(words: list) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def inspect(
        model: Annotated[
            str | None, typer.Argument(metavar="MODEL.gguf", help="a GGUF file, or 'demo'", show_default=False)
        ] = None,
        file: Annotated[str | None, option("-f/--file", "FILE", "read this text, - for stdin", show_default=False)] = None,
        session: Annotated[
            str | None, option("--session", "FILE", "look at a saved session instead; it has its own options", show_default=False)
        ] = None,
        output: Annotated[str, option("-o/--output", "PAGE.html", "where the page is written")] = "kept.html",
        policy: Annotated[
            str | None,
            option("--policy", "NAME,..", f"policies side by side, at most {MAX_POLICIES}; 'help' lists them", show_default="capkv"),
        ] = None,
        tokens: Annotated[
            int | None, option("--tokens", "N", "read no more than the first N tokens", min=1, show_default="all")
        ] = None,
        batch: Annotated[
            int, option("--batch", "N", "tokens read at once; evictions happen between batches", min=1, max=2**20)
        ] = 512,
        title: Annotated[str, option("--title", "TEXT", "title of the page", show_default="the name of the file")] = "",
        threads: Annotated[
            int | None, option("--threads", "N", "CPU threads", min=1, max=512, show_default="the physical cores that the process may use")
        ] = None,
        gpu_layers: Annotated[
            int | None, option("--gpu-layers", "N", "layers on the GPU, -1 = all", min=-1, show_default="all where there is a GPU")
        ] = None,
        verbose: Annotated[bool, typer.Option("--verbose", help="show llama.cpp's log")] = False,
        version: Annotated[bool, command.version_option("capkv-inspect")] = False,
        **kv,
    ):
        """Show what a KV cache of fixed size still holds of a text: one HTML page, which needs no network."""
        if policy == "help":
            return table_options.list_policies()
        if model is None:
            raise ValueError("MODEL.gguf is missing: give a GGUF file, or 'demo'; capkv-inspect --help lists the options")
        if (file is None) == (session is None):
            raise ValueError("give a text (--file FILE) or a saved session (--session FILE), one of the two")
        check_output(output)
        machine = dict(n_threads=threads, n_threads_batch=threads, n_gpu_layers=gpu_layers, verbose=verbose)
        if session is not None:
            given = [f"--{name}" for name, value in {**kv, "policy": policy, "tokens": tokens}.items() if value]
            if given:
                raise ValueError(f"{', '.join(given)}: not with --session, which was saved with options of its own")
            runs = [_session_run(model, session, machine)]
        else:
            if kv["budget"] is None and options()["budget"].env not in os.environ:
                kv["budget"] = BUDGET
            names = policy_names(policy or os.environ.get(options()["policy"].env) or options()["policy"].default)
            text = _read(file)
            runs = [
                _text_run(model, text, tokens, {**machine, "n_batch": batch, **table_options.keywords({**kv, "policy": name})})
                for name in names
            ]
        _write(runs, model, file or session, title, output, shlex.join(["capkv-inspect", *words]))
        return 0

    app.command(name="capkv-inspect")(table_options.with_table(inspect, {"budget": BUDGET}, leave_out=["policy"]))
    return app


def policy_names(text: str) -> list:
    """The policies of a list with commas. Raises ValueError for one that is not there, one named twice, or too many."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in policies()]
    if unknown or not names:
        raise ValueError(f"--policy = {', '.join(unknown) or text}: allowed are {', '.join(policies())}")
    if len(set(names)) < len(names) or len(names) > MAX_POLICIES:
        raise ValueError(f"--policy = {text}: allowed are up to {MAX_POLICIES} different policies")
    return names


def check_output(path: str) -> None:
    """Say before the text is read that the page cannot be written. Raises OSError naming the path."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"--output = {path}: it is a folder")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--output = {path}: there is no folder {folder}")
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise PermissionError(f"--output = {path}: it may not be written")


def _read(name: str) -> bytes:
    if name == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            data = Path(name).expanduser().read_bytes()
        except OSError as err:
            raise OSError(f"--file = {name}: {err.strerror}") from None
    if not data.strip():
        raise ValueError(f"--file = {name}: there is no text in it")
    return data.decode("utf-8", "replace").encode("utf-8")


def _text_run(model: str, text: bytes, n_most: int | None, given: dict):
    from ..vocab import Vocab
    from .record import record_text

    llm = _open(model, given)
    try:
        vocab = Vocab(llm.model)
        tokens = ([vocab.bos] if vocab.adds_bos else []) + list(vocab.tokens(text, special=False))
        record = record_text(llm, tokens[:n_most], _progress(given["kv_policy"], len(tokens[:n_most])))
        return _run(llm, record)
    finally:
        llm.close()


def _session_run(model: str, path: str, machine: dict):
    from ..llama import session
    from .record import record_session

    header = session.read_header(path)
    if header["kv"] is None:
        raise ValueError(f"{path}: the session was saved without a KV budget, so all of its text is held")
    n_batch = min(512, header["kv"]["headroom"])
    llm = _open(model, {**machine, **session.keywords(header), "n_batch": n_batch})
    try:
        llm.load_session(path)
        return _run(llm, record_session(llm))
    finally:
        llm.close()


def _open(model: str, given: dict):
    from .. import models
    from ..llama.llama import Llama

    llm = Llama(models.resolve(model), **given)
    if llm.kv_config is None:
        llm.close()
        raise ValueError("--budget = 0: without a budget all of the text is held, and there is nothing to show")
    return llm


def _progress(name: str, n_all: int):
    def say(n_done: int) -> None:
        if sys.stderr.isatty() or n_done == n_all:
            end = "\n" if n_done == n_all else ""
            print(f"\r{name}: read {n_done:,} of {n_all:,} tokens", end=end, file=sys.stderr, flush=True)

    return say


def _run(llm, record):
    from ..vocab import Vocab
    from .page import Run, pieces

    texts, special = pieces(record.tokens, Vocab(llm.model))
    name, now = llm.kv_config.policy, record.stats
    cache = f"{now.n_cells:,} cells in {llm.kv_config.type}, {now.bytes_kv / 2**20:,.1f} MiB on {llm.cache_device}"
    return Run(name, policies()[name], record, cache, texts, special)


def _write(runs: list, model: str, source: str, title: str, output: str, line: str) -> None:
    from .. import __version__, models
    from .page import render

    source = "stdin" if source == "-" else os.path.basename(source)
    page = render(
        runs,
        title=title or source,
        source=source,
        model=models.resolve(model).name,
        command=line,
        version=__version__,
    )
    Path(output).write_text(page, encoding="utf-8")
    typer.echo(f"{output}: {len(page.encode()) / 2**20:,.1f} MiB, to be opened in a browser")


def main(args=None) -> int:
    """Run capkv-inspect; returns the exit status: 0, 2 after an error, 130 when interrupted."""
    words = sys.argv[1:] if args is None else args
    return command.run(lambda: _app(words), "capkv-inspect", args)


if __name__ == "__main__":
    sys.exit(main())
