"""The command line of capkv-serve: reads the options, checks them, and becomes llama-server."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import command
from ..command import number, option
from ..config import CapkvConfig, is_auto, options
from ..table_options import MORE_HELP, list_policies, with_table
from . import program

BUDGET = "1024"
PORT_MAX = 65535
N_BATCH = 2048  # llama-server's default


def _app(rest: list) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def serve(
        model: Annotated[
            str | None, typer.Argument(metavar="MODEL.gguf", help="a GGUF file, 'demo', or hf.co/OWNER/REPO:QUANT", show_default=False)
        ] = None,
        budget: Annotated[
            str | None,
            option("--budget", "N", f"{options()['budget'].help}, in each slot: {options()['budget'].range}{MORE_HELP['budget']}", BUDGET),
        ] = None,
        host: Annotated[str, option("--host", "ADDRESS", "address to listen on; 0.0.0.0 is reachable from other machines")] = "127.0.0.1",
        port: Annotated[str, option("--port", "N", "port to listen on")] = "8080",
        api_key: Annotated[
            str | None, option("--api-key", "KEY", "key that each request has to have; several with commas between", "none")
        ] = None,
        api_key_file: Annotated[
            Path | None, option("--api-key-file", "FILE", "file of such keys, one a line", "none")
        ] = None,
        parallel: Annotated[
            str, option("-np/--parallel", "N", "slots: conversations that are held at once, each with a cache of its own")
        ] = "4",
        ctx: Annotated[str, option("-c/--ctx", "N", "length of all slots together in tokens", "no end")] = "0",
        keep: Annotated[
            str, option("--keep", "N", "tokens at the start of a conversation that stay in every head", "-1, the system message")
        ] = "-1",
        save_dir: Annotated[
            Path | None, option("--save-dir", "FOLDER", "folder that clients may save slots in, and restore them from", "none")
        ] = None,
        alias: Annotated[str | None, option("--alias", "NAME", "name of the model for clients", "its file's")] = None,
        threads: Annotated[str | None, option("-t/--threads", "N", "CPU threads", "llama-server's own choice")] = None,
        gpu_layers: Annotated[str | None, option("-ngl/--gpu-layers", "N", "layers on the GPU, -1 = all", "all that fit")] = None,
        page: Annotated[bool, typer.Option("--page/--no-page", help="serve the web page at /")] = True,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="print the command of llama-server and exit")] = False,
        version: Annotated[bool, command.version_option("capkv-serve")] = False,
        **kv,
    ):
        """Serve a model over HTTP, as the OpenAI API has it, in KV caches of fixed size.

        What stands after -- goes to llama-server as it is: capkv-serve model.gguf --budget 1024 -- --jinja --cache-ram 0
        """
        if kv["policy"] == "help":
            return list_policies()
        if model is None:
            raise ValueError("MODEL.gguf is missing: give a GGUF file, or 'demo'; capkv-serve --help lists the options")
        if budget is None and options()["budget"].env not in os.environ:
            budget = BUDGET
        n_slots, n_ctx = number(int, "--parallel", parallel, 1, 256), number(int, "--ctx", ctx, 0)
        layers = None if gpu_layers is None else number(int, "--gpu-layers", gpu_layers, -1)
        path = None
        if is_auto(budget):
            path = _find(model)
            budget = _fit(path, n_slots, n_ctx, layers, kv)
        kv = {name: value for name, value in {"budget": budget, **kv}.items() if value not in (None, False)}
        config = CapkvConfig.from_env(**{name: 1 if value is True else value for name, value in kv.items()})

        path = path or _find(model)  # last, since it may download
        words = ["-m", path, "--host", host, "--port", number(int, "--port", port, 1, PORT_MAX), "-np", n_slots]
        words += ["-c", n_ctx, "--keep", number(int, "--keep", keep, -1), "--metrics"]
        for name, value in kv.items():
            words += [f"--kv-{name}"] if value is True else [f"--kv-{name}", value]
        if threads is not None:
            words += ["-t", number(int, "--threads", threads, 1, 512)]
        if layers is not None:
            words += ["-ngl", layers]
        if save_dir is not None:
            words += ["--slot-save-path", _folder(save_dir)]
        words += ["--alias", alias or path.stem]
        if api_key_file is not None:
            words += ["--api-key-file", _readable(api_key_file)]
        words += ["--path", program.page_folder()] if page and program.page_folder() else ["--no-ui"]
        if "--cors-origins" not in rest:
            words += ["--cors-origins", "localhost"]  # pages of other sites, open in a browser of this machine, get no answer
        line = [str(program.find()), *map(str, words), *rest]
        if dry_run:
            typer.echo(shlex.join(line))
            return 0
        env = dict(os.environ)
        if api_key is not None:
            env["LLAMA_API_KEY"] = api_key  # not an option: other users of the machine see those
        _announce(config, host, port, n_slots, has_key=bool(api_key_file or env.get("LLAMA_API_KEY")))
        return program.start(line, env)

    app.command(name="capkv-serve")(with_table(serve, {}, leave_out=("budget",)))
    return app


def _find(model: str) -> Path:
    from .. import models

    path = models.resolve(model, say=lambda line: print(line, file=sys.stderr))
    models.check_file(path)
    return path


def _fit(path: Path, n_slots: int, n_ctx: int, layers: int | None, kv: dict) -> int:
    """The largest budget that fits the memory, for each slot; the arithmetic goes to stderr."""
    from ..llama import memory

    others = {f"kv_{name}": value for name, value in kv.items() if value not in (None, False)}
    fit = memory.fit_budget(str(path), n_sequences=n_slots, n_ctx=n_ctx or None, n_batch=N_BATCH, n_gpu_layers=layers, **others)
    for line in [*fit.lines(), fit.memory.line()]:
        print(f"capkv-serve: {line}", file=sys.stderr)
    return fit.budget


def _folder(path: Path) -> Path:
    """Makes the folder where it is not there, for this user alone."""
    path = path.expanduser()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _readable(path: Path) -> Path:
    path = path.expanduser()
    path.open().close()
    return path


def _announce(config, host: str, port: str, n_slots: int, has_key: bool) -> None:
    kept = f"{config.budget:,} tokens" if isinstance(config.budget, int) else config.budget
    what = f"{n_slots} slot{'s' * (n_slots > 1)} with a budget of {kept} each" if config.on else f"{n_slots} slots without a budget"
    print(f"capkv-serve: {what}; http://{host}:{port} answers once the model is loaded", file=sys.stderr)
    if not program.is_loopback(host) and not has_key:
        print(
            f"capkv-serve: warning: {host} is reachable from other machines and needs no key: whoever reaches it can use the model and "
            "read the text of every slot; --api-key asks for one",
            file=sys.stderr,
        )


def main(args=None) -> int:
    """Run capkv-serve; returns the exit status: 2 after a wrong option, else that of llama-server."""
    args = list(sys.argv[1:] if args is None else args)
    at = args.index("--") if "--" in args else len(args)
    return command.run(lambda: _app(args[at + 1 :]), "capkv-serve", args[:at])


if __name__ == "__main__":
    sys.exit(main())
