"""The command line of capkv-chat: reads the options and returns an exit status."""

import os
import sys
from typing import Annotated

import typer

from .. import command, table_options
from ..command import number, option
from ..config import CACHE_TYPES, cache_type, options
from ..recall.choice import QUOTA
from .store import Store, default_folder

CHAT_BUDGET = "1024"

#: the option of the native table that capkv-chat has as one of its own: it seeds the sampling, too
SHARED = "seed"


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def chat(
        model: Annotated[
            str | None,
            typer.Argument(
                metavar="MODEL.gguf",
                help="a GGUF file, here or in the folder of models, hf.co/OWNER/REPO:QUANT, or 'demo'; "
                "without it a terminal shows what there is",
                show_default=False,
            ),
        ] = None,
        hub_name: Annotated[
            str | None,
            option("-hf/--hf", "OWNER/REPO:QUANT", "a model on the Hugging Face Hub; without :QUANT it is Q4_K_M or Q8_0", False),
        ] = None,
        models: Annotated[str | None, option("--models", "FOLDER", "the folder of models", "$CAPKV_MODELS or ~/models")] = None,
        list_models: Annotated[bool, typer.Option("--list", help="list the models that are here, with what to type for them")] = False,
        cache_type_k: Annotated[
            str | None, option("--cache-type-k", "TYPE", "type of K: " + ", ".join(CACHE_TYPES), "f16, with a budget see --type")
        ] = None,
        cache_type_v: Annotated[
            str | None, option("--cache-type-v", "TYPE", "type of V, as --cache-type-k", "f16, with a budget see --type")
        ] = None,
        ctx: Annotated[
            str, option("--ctx", "N", "length of the conversation in tokens", "no end; without a budget the trained length")
        ] = "0",
        prompt: Annotated[list[str] | None, option("-p/--prompt", "TEXT", "answer this and exit; may be repeated")] = None,
        file: Annotated[
            list[str] | None, option("-f/--file", "FILE", "put this file into the conversation first; may be repeated")
        ] = None,
        no_focus: Annotated[
            bool, typer.Option("--no-focus", help="evict as if the prompt were not known while a --file is read")
        ] = False,
        system: Annotated[str | None, option("-s/--system", "TEXT", "system prompt, '' for none", "the model's own")] = None,
        temp: Annotated[
            str | None, option("--temp", "X", "temperature, 0 = always the most likely token", "what the model asks for, else 0.8")
        ] = None,
        seed: Annotated[str | None, option("--seed", "N", "seed of the sampling and of the KV policy", "random")] = None,
        max_tokens: Annotated[str, option("--max-tokens", "N", "longest reply in tokens, 0 = no limit")] = "1024",
        recall: Annotated[
            str, option("--recall", "N", "tokens of evicted text that may come back with a question, 0 = off")
        ] = str(QUOTA),
        threads: Annotated[str | None, option("--threads", "N", "CPU threads", "the physical cores that the process may use")] = None,
        gpu_layers: Annotated[
            str | None, option("--gpu-layers", "N", "layers on the GPU, -1 = all", "all where there is a GPU")
        ] = None,
        rpc: Annotated[
            str | None, option("--rpc", "SERVERS", "ggml-rpc-servers that hold layers of the model: HOST:PORT,HOST:PORT", "none")
        ] = None,
        show_thinking: Annotated[bool, typer.Option("--show-thinking", help="show a model's reasoning instead of folding it")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", help="show llama.cpp's log")] = False,
        go_on: Annotated[bool, typer.Option("-c", "--continue", help="go on with the conversation that was saved last")] = False,
        name: Annotated[
            str | None, option("--name", "NAME", "go on with the conversation of this name, or begin it", "its first words")
        ] = None,
        folder: Annotated[
            str | None, option("--folder", "FOLDER", "where conversations are kept", "capkv/chats in the user's data")
        ] = None,
        no_history: Annotated[bool, typer.Option("--no-history", help="save neither conversations nor what is typed by itself")] = False,
        json: Annotated[bool, typer.Option("--json", help="for programs: one JSON object a turn on stdout, with all figures")] = False,
        no_color: Annotated[bool, typer.Option("--no-color", help="no colors; NO_COLOR in the environment does the same")] = False,
        version: Annotated[bool, command.version_option("capkv-chat")] = False,
        **kv,
    ):
        """Chat with a model in a KV cache of fixed size.

        In a terminal a conversation is saved as it goes, under a name made of its first words; -c goes on with the last one. In a pipe
        and with --prompt it is saved where -c or --name asks for it.

        Exit status: 0; 2 after an error, or where a prompt or a command of a script could not be carried out; 130 after Ctrl-C.
        """
        if kv["policy"] == "help":
            return table_options.list_policies()
        if list_models:
            return _list(models)
        if kv["budget"] is None and options()["budget"].env not in os.environ:
            kv["budget"] = CHAT_BUDGET
        return _run(
            (model, hub_name, models),
            dict(
                n_ctx=number(int, "--ctx", ctx, 0),
                n_threads=None if threads is None else number(int, "--threads", threads, 1, 512),
                n_threads_batch=None if threads is None else int(threads),
                n_gpu_layers=None if gpu_layers is None else number(int, "--gpu-layers", gpu_layers, -1),
                rpc_servers=rpc,
                type_k=None if cache_type_k is None else cache_type(cache_type_k, "--cache-type-k"),
                type_v=None if cache_type_v is None else cache_type(cache_type_v, "--cache-type-v"),
                verbose=verbose,
                **({} if seed is None else {"seed": number(int, "--seed", seed, 0, 2**32 - 1)}),
                kv_seed=seed,
                **table_options.keywords(kv),
            ),
            dict(
                system=system,
                **({} if temp is None else {"temp": number(float, "--temp", temp, 0, 100)}),
                max_tokens=number(int, "--max-tokens", max_tokens, 0),
                recall=number(int, "--recall", recall, 0),
            ),
            prompts=prompt or [],
            files=file or [],
            focuses=not no_focus,
            kept=dict(go_on=go_on, name=name, folder=folder, no_history=no_history),
            shown=dict(is_json=json, no_color=no_color),
            shows_thinking=show_thinking,
        )

    app.command(name="capkv-chat")(table_options.with_table(chat, {"budget": CHAT_BUDGET}, leave_out=[SHARED]))
    return app


def _list(folder: str | None) -> int:
    """--list: returns the exit status, 2 if there are none."""
    from ..models import found
    from .picker import no_models, table

    models = found(folder)
    if not models:
        raise ValueError(no_models(folder))
    for line in table(models):
        typer.echo(line)
    return 0


def _say(line: str, no_color: bool) -> None:
    """A line before there is a conversation, and so before its UI; as PlainUI.info()."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, no_color=no_color or None)
    console.print(Text(line, style="bright_black"), soft_wrap=not console.is_terminal)


def _run(
    model: tuple,
    llm_options: dict,
    talk_options: dict,
    prompts: list,
    files: list,
    focuses: bool,
    kept: dict,
    shown: dict,
    shows_thinking: bool,
) -> int:
    from . import focus, opening
    from .conversation import Conversation
    from .figures import cost_lines
    from .keeping import Keeper
    from .loop import Chat, run_chat

    is_terminal = not prompts and not shown["is_json"] and all(s is not None and s.isatty() for s in (sys.stdin, sys.stdout))
    store = Store(kept["folder"] or default_folder())
    name = _kept_name(store, kept)
    wanted = opening.choose(*model, is_terminal)
    if wanted is None:
        return 0
    llm, sampling = opening.open_model(wanted, model[2], llm_options, lambda line: _say(line, shown["no_color"]))
    chat = None
    try:
        talk = Conversation(llm, **(sampling | talk_options))
        is_automatic = not kept["no_history"] and (is_terminal or name is not None)
        if is_automatic:
            store.sweep()
        ui = _ui(talk, store, is_terminal, prompts, no_history=kept["no_history"], **shown)
        chat = Chat(talk, ui, not is_terminal, Keeper(talk, store, is_automatic, name), shows_thinking)
        for line in cost_lines(talk):
            ui.info(line)
        for remark in talk.remarks():
            ui.info(f"note: {remark}")
        if name is not None and store.has(name):
            chat.command(f"/load {name}")
        if focuses and files and prompts and talk.stats() is not None:
            focus.begin(chat, prompts[0])  # of several, each would have few rows of the sample
        for file in files:
            chat.read(file)
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
        if chat is not None:
            ui.close()
            chat.finish()
        llm.close()


def _kept_name(store: Store, kept: dict) -> str | None:
    """The conversation that was asked for; None for a new one. Raises ValueError where there is none to go on with."""
    if kept["name"] is not None:
        return store.check_name(kept["name"])
    if not kept["go_on"]:
        return None
    names = store.names()
    if not names:
        raise ValueError(f"-c: no conversation is kept in {store.folder}")
    return names[0]


def _ui(talk, store: Store, is_terminal: bool, prompts: list, is_json: bool, no_color: bool, no_history: bool):
    from ..config import policies
    from .figures import toolbar
    from .settings import choices
    from .ui import JsonUI, PlainUI

    if not is_terminal:
        return (JsonUI if is_json else PlainUI)(sys.stdin if not prompts else (), no_color=no_color)
    from .terminal import TerminalUI

    words = {"/load": store.names, "/delete": store.names, "/set": choices, "/policy": lambda: list(policies())}
    history = None if no_history else store.folder / "history"
    return TerminalUI(lambda: toolbar(talk), words, history, no_color)


def main(args=None) -> int:
    """Run capkv-chat; returns the exit status: 0, 2 after an error, 130 when interrupted."""
    return command.run(_app, "capkv-chat", args)


if __name__ == "__main__":
    sys.exit(main())
