"""The command capkv-bench: what is lost and what is gained at a budget, on any GGUF file."""

import shlex
import sys
from typing import Annotated

import typer

from .. import command
from . import options as o
from . import terminal


def _engine(model, threads, gpu_layers):
    from .run.engine import Engine

    return Engine(model, n_threads=threads, n_gpu_layers=gpu_layers)


def _run(what: str, engine, make_work, rows, output, plot) -> int:
    """Measure with a bar, then print and draw; make_work(store, progress) gives the rows."""
    from .run.rows import Store

    store = Store(rows)
    with engine or terminal.nothing():
        if engine:
            terminal.start(engine.cache_device, engine.n_threads)
        with terminal.bar(what) as progress:
            done = terminal.collect(make_work(store, progress), store, rows)
    kind = "retrieval" if what == "dialogues" else what
    terminal.finish(store.rows(kind), output, plot, shlex.join(["capkv-bench", *sys.argv[1:]]))
    return 0 if done else 130


def _app() -> typer.Typer:
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True, help=__doc__
    )

    @app.callback()
    def about(
        version: Annotated[
            bool, typer.Option("--version", callback=command.version("capkv-bench"), is_eager=True, help="and leave")
        ] = False,
    ):
        pass

    @app.command()
    def fidelity(
        model: o.Model,
        text: o.Texts = "python-docs",
        policy: o.Policies = "capkv,streaming,shift",
        budget: o.Budgets = "512,1024",
        type: o.Types = "f16",
        setup: o.Setups = "q8_0;q4_0",
        ctx: o.Contexts = "4096",
        docs: Annotated[int, typer.Option("--docs", metavar="N", help="documents of each text", min=1)] = 8,
        stride: Annotated[int, typer.Option("--stride", metavar="N", help="score every N-th token", min=1)] = 4,
        rows: o.Rows = None,
        output: o.Output = "md",
        plot: o.Plot = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
        seed: o.Seed = 1,
    ):
        """Next-token distributions against the full cache's, while text streams in."""
        from .measure import fidelity
        from .tasks import corpora

        terminal.check(output, plot)
        contexts = sorted(o.numbers("--ctx", ctx, least=256))
        setups = o.setups(policy, budget, type, setup)
        engine = _engine(model, threads, gpu_layers)
        documents = [one for name in o.split(text) for one in corpora.documents(engine, name, docs, contexts[-1])]
        plan = fidelity.Plan(documents, setups, contexts, stride, seed)
        return _run("fidelity", engine, lambda store, say: fidelity.run(engine, plan, store, say), rows, output, plot)

    @app.command()
    def retrieval(
        model: o.Model,
        task: Annotated[
            str, typer.Option("--task", metavar="T,..", help="tasks; 'help' lists them, ruler and dialogues are groups")
        ] = "niah_multikey_1",
        length: Annotated[
            str, typer.Option("--length", metavar="N,..", help="tokens of the texts, question and answer included")
        ] = "4096",
        turns: Annotated[int, typer.Option("--turns", metavar="N", help="turns of the dialogues", min=1)] = 20,
        depths: Annotated[
            str, typer.Option("--depths", metavar="X,..", help="where the needles stand, 0 to 1", show_default="spread evenly")
        ] = "",
        haystack: Annotated[
            str | None,
            typer.Option(
                "--haystack", metavar="H", help="noise, essays, python-docs, a file or a folder", show_default="each task's own"
            ),
        ] = None,
        mode: Annotated[
            str, typer.Option("--mode", metavar="M,..", help="blind: evicted before the question is known; aware: after it")
        ] = "blind",
        n_texts: Annotated[int, typer.Option("--texts", metavar="N", help="texts of each task and length", min=1)] = 10,
        share: Annotated[
            int, typer.Option("--share", metavar="N", help="questions to one text, each asked alone from the same cache", min=1)
        ] = 5,
        min_base: Annotated[
            float, typer.Option("--min-base", metavar="X", help="leave out what the full cache scores less in", min=0, max=1)
        ] = 0.1,
        policy: o.Policies = "capkv,streaming,shift",
        budget: o.Budgets = "512,1024",
        type: o.Types = "f16",
        setup: o.Setups = "q8_0;q4_0",
        rows: o.Rows = None,
        output: o.Output = "md",
        plot: o.Plot = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
        seed: o.Seed = 1,
    ):
        """Tasks of RULER, facts told many turns ago, rules given at the start."""
        from .measure import retrieval
        from .tasks.registry import DIALOGUES, RULER

        if task == "help":
            typer.echo(f"ruler: {', '.join(RULER)}\ndialogues: {', '.join(DIALOGUES)}")
            return 0
        terminal.check(output, plot)
        groups = {"ruler": RULER, "dialogues": DIALOGUES}
        plan = retrieval.Plan(
            tasks=[name for part in o.split(task) for name in groups.get(part, (part,))],
            setups=o.setups(policy, budget, type, setup),
            lengths=o.numbers("--length", length, least=256),
            n_turns=turns,
            modes=o.split(mode),
            n_texts=n_texts,
            haystack=haystack,
            share=share,
            depths=tuple(o.numbers("--depths", depths, float, 0, 1)) if depths else (),
            seed=seed,
            min_base=min_base,
        )
        engine = _engine(model, threads, gpu_layers)
        return _run("retrieval", engine, lambda store, say: retrieval.run(engine, plan, store, say), rows, output, plot)

    @app.command()
    def longbench(
        model: o.Model,
        folder: Annotated[
            str, typer.Argument(metavar="FOLDER", help="with LongBench's DATASET.jsonl files", show_default=False)
        ],
        dataset: Annotated[
            str, typer.Option("--dataset", metavar="D,..", help="data sets", show_default="all in the folder")
        ] = "",
        ctx: Annotated[
            int, typer.Option("--ctx", metavar="N", help="context; longer texts are cut in their middle", min=256)
        ] = 4096,
        mode: Annotated[
            str, typer.Option("--mode", metavar="M,..", help="blind: evicted before the question is known; aware: after it")
        ] = "blind",
        items: Annotated[
            int | None, typer.Option("--items", metavar="N", help="items of each data set", min=1, show_default="all")
        ] = None,
        policy: o.Policies = "capkv,streaming,shift",
        budget: o.Budgets = "512,1024",
        type: o.Types = "f16",
        setup: o.Setups = "q8_0;q4_0",
        rows: o.Rows = None,
        output: o.Output = "md",
        plot: o.Plot = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
        seed: o.Seed = 1,
    ):
        """LongBench's own files, with its official metrics."""
        from .measure import longbench

        terminal.check(output, plot)
        datasets = longbench.load(folder, o.split(dataset) or None)
        plan = longbench.Plan(datasets, o.setups(policy, budget, type, setup), ctx, tuple(o.split(mode)), items, seed)
        engine = _engine(model, threads, gpu_layers)
        return _run("longbench", engine, lambda store, say: longbench.run(engine, plan, store, say), rows, output, plot)

    @app.command()
    def speed(
        model: o.Model,
        depth: Annotated[str, typer.Option("-d/--depth", metavar="N,..", help="tokens that were read before")] = "0,4096",
        n_prompt: Annotated[int, typer.Option("-p/--n-prompt", metavar="N", help="tokens to read, 0: none", min=0)] = 512,
        n_gen: Annotated[int, typer.Option("-n/--n-gen", metavar="N", help="tokens to decode, 0: none", min=0)] = 128,
        repeat: Annotated[int, typer.Option("-r/--repetitions", metavar="N", help="rounds, all setups in turn", min=1)] = 3,
        batch: Annotated[
            int | None, typer.Option("-b/--batch", metavar="N", help="tokens read at once", min=1, show_default="512")
        ] = 512,
        text: Annotated[
            str, typer.Option("--text", metavar="T", help="python-docs, random (tokens) or a file")
        ] = "python-docs",
        limit: Annotated[
            float | None, typer.Option("--limit", metavar="S", help="seconds for a setup at a depth", show_default="none")
        ] = None,
        policy: o.Policies = "capkv,streaming,shift",
        budget: o.Budgets = "1024",
        type: o.Types = "f16",
        setup: o.Setups = "q8_0;q4_0",
        rows: o.Rows = None,
        output: o.Output = "md",
        plot: o.Plot = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
        seed: o.Seed = 1,
    ):
        """Tokens per second, memory and the cost of evictions at depths, in llama-bench's terms."""
        from .measure import speed

        terminal.check(output, plot)
        plan = speed.Plan(
            o.setups(policy, budget, type, setup),
            o.numbers("--depth", depth),
            n_prompt=n_prompt,
            n_gen=n_gen,
            rounds=repeat,
            n_batch=batch,
            n_threads=threads,
            n_gpu_layers=gpu_layers,
            text=text,
            limit_s=limit,
            seed=seed,
        )
        return _run("speed", None, lambda store, say: speed.run(model, plan, store, say), rows, output, plot)

    from . import cli_more

    cli_more.add(app, _engine)
    return app


def main(args=None) -> int:
    """Run capkv-bench; returns the exit status: 0, 2 after an error, 130 when interrupted."""
    return command.run(_app, "capkv-bench", args)


if __name__ == "__main__":
    sys.exit(main())
