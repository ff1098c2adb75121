"""The command line of capkv-chat: reads the options and returns an exit status."""

import os
import sys
from typing import Annotated

import typer

from .. import command, table_options
from ..config import CACHE_TYPES, cache_type, options, policies
from ..recall.choice import QUOTA

CHAT_BUDGET = "1024"

#: the option of the native table that capkv-chat has as one of its own: it seeds the sampling, too
SHARED = "seed"


def _option(names: str, metavar: str, text: str, default: str | bool = True):
    return command.option(names, metavar, text, show_default=default)


def _number(kind, option: str, text: str, least, most=2**31 - 1):
    """The number in an option's text. Raises ValueError naming option, value and range."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ValueError(
            f"{option} = {text}: allowed is {'a number' if kind is float else 'a whole number'}, {least} to {most}"
        )
    return value


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def chat(
        model: Annotated[
            str | None, typer.Argument(metavar="MODEL.gguf", help="a GGUF file, or 'demo'", show_default=False)
        ] = None,
        cache_type_k: Annotated[
            str | None, _option("--cache-type-k", "TYPE", "type of K: " + ", ".join(CACHE_TYPES), "f16, with a budget see --type")
        ] = None,
        cache_type_v: Annotated[
            str | None, _option("--cache-type-v", "TYPE", "type of V, as --cache-type-k", "f16, with a budget see --type")
        ] = None,
        ctx: Annotated[
            str, _option("--ctx", "N", "length of the conversation in tokens", "no end; without a budget the trained length")
        ] = "0",
        prompt: Annotated[list[str] | None, _option("-p/--prompt", "TEXT", "answer this and exit; may be repeated")] = None,
        file: Annotated[
            list[str] | None, _option("-f/--file", "FILE", "put this file into the conversation first; may be repeated")
        ] = None,
        system: Annotated[str | None, _option("-s/--system", "TEXT", "system prompt, '' for none", "the model's own")] = None,
        temp: Annotated[str, _option("--temp", "X", "temperature, 0 = always the most likely token")] = "0.8",
        seed: Annotated[str | None, _option("--seed", "N", "seed of the sampling and of the KV policy", "random")] = None,
        max_tokens: Annotated[str, _option("--max-tokens", "N", "longest reply in tokens, 0 = no limit")] = "1024",
        recall: Annotated[
            str, _option("--recall", "N", "tokens of evicted text that may come back with a question, 0 = off")
        ] = str(QUOTA),
        threads: Annotated[str | None, _option("--threads", "N", "CPU threads", "the physical cores that the process may use")] = None,
        gpu_layers: Annotated[
            str | None, _option("--gpu-layers", "N", "layers on the GPU, -1 = all", "all where there is a GPU")
        ] = None,
        rpc: Annotated[
            str | None, _option("--rpc", "SERVERS", "ggml-rpc-servers that hold layers of the model: HOST:PORT,HOST:PORT", "none")
        ] = None,
        verbose: Annotated[bool, typer.Option("--verbose", help="show llama.cpp's log")] = False,
        version: Annotated[bool, command.version_option("capkv-chat")] = False,
        **kv,
    ):
        """Chat with a model in a KV cache of fixed size."""
        if kv["policy"] == "help":
            for name, what in policies().items():
                typer.echo(f"{name:<12} {what}")
            return 0
        if model is None:
            raise ValueError("MODEL.gguf is missing: give a GGUF file, or 'demo'; capkv-chat --help lists the options")
        if kv["budget"] is None and options()["budget"].env not in os.environ:
            kv["budget"] = CHAT_BUDGET
        return _run(
            model,
            dict(
                n_ctx=_number(int, "--ctx", ctx, 0),
                n_threads=None if threads is None else _number(int, "--threads", threads, 1, 512),
                n_threads_batch=None if threads is None else int(threads),
                n_gpu_layers=None if gpu_layers is None else _number(int, "--gpu-layers", gpu_layers, -1),
                rpc_servers=rpc,
                type_k=None if cache_type_k is None else cache_type(cache_type_k, "--cache-type-k"),
                type_v=None if cache_type_v is None else cache_type(cache_type_v, "--cache-type-v"),
                verbose=verbose,
                **({} if seed is None else {"seed": _number(int, "--seed", seed, 0, 2**32 - 1)}),
                kv_seed=seed,
                **table_options.keywords(kv),
            ),
            dict(
                system=system,
                temp=_number(float, "--temp", temp, 0, 100),
                max_tokens=_number(int, "--max-tokens", max_tokens, 0),
                recall=_number(int, "--recall", recall, 0),
            ),
            prompts=prompt or [],
            files=file or [],
        )

    app.command(name="capkv-chat")(table_options.with_table(chat, {"budget": CHAT_BUDGET}, leave_out=[SHARED]))
    return app


def _run(model: str, llm_options: dict, talk_options: dict, prompts: list, files: list) -> int:
    from .. import models
    from ..llama.llama import Llama
    from .conversation import Conversation
    from .loop import Chat, cost_lines, run_chat, toolbar
    from .ui import PlainUI, TerminalUI

    is_terminal = not prompts and all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    llm = Llama(models.resolve(model), **llm_options)
    try:
        talk = Conversation(llm, **talk_options)
        ui = TerminalUI(lambda: toolbar(talk)) if is_terminal else PlainUI(sys.stdin if not prompts else ())
        chat = Chat(talk, ui, is_script=not is_terminal)
        for line in cost_lines(talk):
            ui.info(line)
        for remark in talk.remarks():
            ui.info(f"note: {remark}")
        for name in files:
            chat.read(name)
        if chat.n_failed:
            return 2
        for text in prompts:
            chat.say(text)
        if is_terminal:
            ui.info("/help lists the commands")
        if not prompts:
            run_chat(talk, ui, chat)
        return 2 if chat.n_failed and not is_terminal else 0
    finally:
        llm.close()


def main(args=None) -> int:
    """Run capkv-chat; returns the exit status: 0, 2 after an error, 130 when interrupted."""
    return command.run(_app, "capkv-chat", args)


if __name__ == "__main__":
    sys.exit(main())
