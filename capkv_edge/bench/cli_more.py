"""The commands of capkv-bench that decide or report: tune, report, results."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from . import terminal


def add(app: typer.Typer, make_engine) -> None:
    """Add the commands to the app; make_engine(model, threads, gpu_layers) loads a model."""

    @app.command()
    def tune(
        model: o.Model,
        text: Annotated[
            str, typer.Option("--text", metavar="FILE", help="python-docs, essays, a file or a folder: like yours")
        ],
        max_kl: Annotated[
            float, typer.Option("--max-kl", metavar="X", help="largest mean KL to the full cache, in nats")
        ] = 0.05,
        policy: o.Policies = "capkv,expected,snapkv,streaming",
        type: Annotated[str, typer.Option("--type", metavar="T", help="cache type")] = "f16",
        ctx: Annotated[int, typer.Option("--ctx", metavar="N", help="tokens of a document", min=512)] = 4096,
        docs: Annotated[int, typer.Option("--docs", metavar="N", help="documents of the text", min=1)] = 8,
        stride: Annotated[int, typer.Option("--stride", metavar="N", help="score every N-th token", min=1)] = 4,
        rows: o.Rows = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
        seed: o.Seed = 1,
    ):
        """The smallest budget that keeps the loss under a limit on your own text."""
        from .measure import tune
        from .run.rows import Store
        from .run.setups import Setup
        from .tasks import corpora

        names = o.policy_names(policy)
        Setup.parse(f"{names[0]}@{tune.LEAST}:{type}")
        store = Store(rows)
        with make_engine(model, threads, gpu_layers) as engine:
            plan = tune.Plan(corpora.documents(engine, text, docs, ctx), names, ctx, max_kl, type, stride, seed)
            found = []
            terminal.start(engine.cache_device, engine.n_threads)
            with terminal.bar("tune") as progress:
                try:
                    for one in tune.run(engine, plan, store, progress):
                        found.append(one)
                except KeyboardInterrupt:
                    print("capkv-bench: interrupted; the policies that were done:", file=sys.stderr)
        for line in tune.report(found, plan, model):
            typer.echo(line)
        return 0 if len(found) == len(names) else 130

    @app.command()
    def report(
        rows: Annotated[list[Path], typer.Argument(metavar="ROWS.jsonl", help="files that --rows wrote", show_default=False)],
        output: o.Output = "md",
        plot: o.Plot = None,
    ):
        """Tables, plots and a page out of rows that were measured before."""
        from .run.rows import Store

        terminal.check(output, plot)
        for path in rows:
            if not path.exists():
                raise FileNotFoundError(f"no such file of rows: {path}")
        found = [row for path in rows for row in Store(path).rows()]
        terminal.finish(found, output, plot, shlex.join(["capkv-bench", *sys.argv[1:]]))
        return 0

    @app.command()
    def results(
        model: o.Model,
        folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="for the rows and the plots")] = Path(
            "results"
        ),
        document: Annotated[
            Path | None, typer.Option("--document", metavar="FILE.md", help="write the tables into it, between its marks")
        ] = None,
        size: Annotated[str, typer.Option("--size", metavar="S", help="full (hours on a laptop) or short (minutes)")] = "full",
        only: Annotated[str, typer.Option("--only", metavar="KIND,..", help="parts: fidelity, retrieval, speed")] = "",
        limit: Annotated[
            float | None, typer.Option("--limit", metavar="S", help="stop measuring after so many seconds")
        ] = None,
        threads: o.Threads = None,
        gpu_layers: o.GpuLayers = None,
    ):
        """Every policy and peer on prose and documentation: the comparison that docs/results.md shows."""
        from . import full_run

        return full_run.run(model, folder, document, size, o.split(only), limit, threads, gpu_layers, make_engine)
