"""The command capkv-bench: what a budget loses and what it gains, on any GGUF file."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import command
from . import options as o
from . import terminal

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="What a KV budget loses and what it gains, on any GGUF file.",
)


@app.callback()
def _root(version: Annotated[bool, command.version_option("capkv-bench")] = False):
    pass


def _command_line() -> str:
    return shlex.join(["capkv-bench", *sys.argv[1:]])


def _engine(model, threads, gpu_layers):
    from .run.engine import Engine

    return Engine(model, n_threads=threads, n_gpu_layers=gpu_layers)


Document = Annotated[Path | None, o.option("--document", "FILE.md", "write the tables into it, between its marks")]


def _write(document: Path | None, rows: list, folder) -> None:
    """Write what the rows show into the document, if one is given, with links to the plots in the folder."""
    if document is not None:
        from .report.results import write

        write(document, rows, folder)


def _measure(kind: str, given, make_work) -> int:
    """Measure with a progress bar, then print and draw. make_work(store, progress) gives the rows."""
    from .run.rows import Store

    store = Store(given.rows, given.keep_old)
    with terminal.bar(kind) as progress:
        done = terminal.collect(make_work(store, progress), store, given.rows)
    terminal.finish(store.rows(kind), given.output, given.plot, _command_line())
    return 0 if done else 130


def _measure_quality(kind: str, given, model: str, run, make_plan) -> int:
    """_measure() on an engine: run(engine, plan, store, progress) gives the rows, make_plan(engine) the plan."""
    with _engine(model, given.threads, given.gpu_layers) as engine:
        plan = make_plan(engine)
        terminal.say_device(engine.cache_device, engine.n_threads)
        return _measure(kind, given, lambda store, progress: run(engine, plan, store, progress))


def _documents(engine, text: str, n: int, n_tokens: int) -> list:
    """n Documents of n_tokens of each text of --text."""
    from .tasks import corpora

    return [one for name in o.split(text) for one in corpora.documents(engine, name, n, n_tokens)]


@app.command()
@o.shared(*o.MEASURED, "seeds")
def fidelity(
    given,
    model: o.Model,
    text: o.Texts = "python-docs",
    ctx: Annotated[str, o.option("--ctx", "N,..", "contexts in tokens; the last half of each is scored")] = "4096",
    docs: o.Docs = 8,
    stride: o.Stride = 4,
):
    """The next token's distribution against the full cache's, while text streams in."""
    from .measure import fidelity

    terminal.check(given.output, given.plot)
    contexts, setups = sorted(o.numbers("--ctx", ctx, least=256)), o.seeded_setups_of(given)

    def make_plan(engine):
        return fidelity.Plan(_documents(engine, text, docs, contexts[-1]), setups, contexts, stride, given.seed)

    return _measure_quality("fidelity", given, model, fidelity.run, make_plan)


@app.command()
@o.shared(*o.MEASURED, "seeds")
def retrieval(
    given,
    model: o.Model,
    task: Annotated[
        str, o.option("--task", "T,..", "tasks; 'help' lists them; ruler, needles and dialogues are groups")
    ] = "needles",
    length: Annotated[str, o.option("--length", "N,..", "tokens of the texts, question and answer included")] = "4096",
    turns: Annotated[int, o.option("--turns", "N", "turns of the dialogues", min=1)] = 20,
    depths: Annotated[
        str, o.option("--depths", "X,..", "where the needles stand in the text, 0 to 1", show_default="each task's own")
    ] = "",
    haystack: Annotated[
        str | None,
        o.option("--haystack", "H", "noise, essays, python-docs, python-code, a file or a folder", show_default="each task's own"),
    ] = None,
    mode: Annotated[
        str,
        o.option(
            "--mode",
            "M,..",
            "blind: evict before the question is known; aware: after it; told: it comes before the text too; "
            "focus: its queries take part in each eviction",
        ),
    ] = "blind",
    squad: Annotated[str | None, o.option("--squad", "FILE", "SQuAD's dev-v2.0.json, for qa_1")] = None,
    hotpotqa: Annotated[str | None, o.option("--hotpotqa", "FILE", "HotpotQA's hotpot_dev_distractor_v1.json, for qa_2")] = None,
    n_texts: Annotated[int, o.option("--texts", "N", "texts of each task and length", min=1)] = 20,
    share: Annotated[
        int | None,
        o.option(
            "--share",
            "N",
            "questions about one text, each asked alone from the same cache",
            min=1,
            show_default="each task's own",
        ),
    ] = None,
    min_base: Annotated[
        float, o.option("--min-base", "X", "leave out tasks in which the full cache scores less", min=0, max=1)
    ] = 0.1,
):
    """RULER's tasks, needles, facts told many turns ago, rules given at the start."""
    from .measure import retrieval
    from .tasks import registry

    if task == "help":
        typer.echo("\n".join(f"{name}: {', '.join(tasks)}" for name, tasks in registry.GROUPS.items()))
        return 0
    terminal.check(given.output, given.plot)
    files = {form: path for form, path in (("squad", squad), ("hotpotqa", hotpotqa)) if path}
    tasks, without = registry.expand(o.split(task), files)
    for name in without:
        print(f"capkv-bench: {name} is left out: it needs {registry.find(name).haystack} FILE", file=sys.stderr)
    plan = retrieval.Plan(
        tasks=tasks,
        setups=o.seeded_setups_of(given, retrieval=True),
        lengths=o.numbers("--length", length, least=256),
        n_turns=turns,
        modes=o.split(mode),
        n_texts=n_texts,
        haystack=haystack,
        files=files,
        share=share,
        depths=tuple(o.numbers("--depths", depths, float, 0, 1)) if depths else (),
        seed=given.seed,
        min_base=min_base,
    )
    print(f"capkv-bench: {plan.cost}", file=sys.stderr, flush=True)
    return _measure_quality("retrieval", given, model, retrieval.run, lambda engine: plan)


@app.command()
@o.shared(*o.MEASURED, "seeds")
def longbench(
    given,
    model: o.Model,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="with LongBench's DATASET.jsonl files", show_default=False)],
    dataset: Annotated[str, o.option("--dataset", "D,..", "data sets", show_default="all in the folder")] = "",
    ctx: Annotated[int, o.option("--ctx", "N", "context in tokens; longer texts are cut in the middle", min=256)] = 4096,
    mode: o.Mode = "blind",
    items: Annotated[int | None, o.option("--items", "N", "items of each data set", min=1, show_default="all")] = None,
):
    """LongBench's own files, with its official metrics."""
    from .measure import longbench

    terminal.check(given.output, given.plot)
    datasets = longbench.load(folder, o.split(dataset) or None)
    plan = longbench.Plan(datasets, o.seeded_setups_of(given), ctx, tuple(o.split(mode)), items, given.seed)
    return _measure_quality("longbench", given, model, longbench.run, lambda engine: plan)


@app.command()
@o.shared(*o.MEASURED, "seeds")
def continuation(
    given,
    model: o.Model,
    text: o.Texts = "python-docs",
    prompt: Annotated[int, o.option("--prompt", "N", "tokens of a document's beginning, which are read first", min=16)] = 1024,
    length: Annotated[int, o.option("--length", "N", "tokens of a continuation", min=16)] = 4096,
    docs: o.Docs = 8,
):
    """How well a long text is continued, and how much the model repeats itself."""
    from .measure import continuation

    terminal.check(given.output, given.plot)
    setups = o.seeded_setups_of(given)

    def make_plan(engine):
        return continuation.Plan(_documents(engine, text, docs, prompt + length), setups, prompt, length, given.seed)

    return _measure_quality("continuation", given, model, continuation.run, make_plan)


@app.command()
@o.shared(*o.MEASURED, budget="1024")
def speed(
    given,
    model: o.Model,
    depth: Annotated[str, o.option("-d/--depth", "N,..", "tokens read before the test")] = "0,4096",
    n_prompt: Annotated[int, o.option("-p/--n-prompt", "N", "tokens to read, 0: none", min=0)] = 512,
    n_gen: Annotated[
        int | None,
        o.option("-n/--n-gen", "N", "tokens to decode, 0: none", min=0, show_default="the largest headroom, at least 128"),
    ] = None,
    repeat: Annotated[int, o.option("-r/--repetitions", "N", "rounds; each measures all setups once", min=1)] = 5,
    batch: Annotated[int, o.option("-b/--batch", "N", "tokens read at once", min=1)] = 512,
    text: Annotated[str, o.option("--text", "T", "python-docs, random (tokens) or a file")] = "python-docs",
    limit: Annotated[
        float | None, o.option("--limit", "S", "seconds for each setup at each depth", show_default="no limit")
    ] = None,
):
    """Tokens per second, memory and the cost of evictions at depths, in llama-bench's terms."""
    from .measure import speed

    terminal.check(given.output, given.plot)
    plan = speed.Plan(
        o.setups_of(given),
        o.numbers("--depth", depth),
        n_prompt=n_prompt,
        n_gen=n_gen,
        rounds=repeat,
        n_batch=batch,
        n_threads=given.threads,
        n_gpu_layers=given.gpu_layers,
        text=text,
        limit_s=limit,
        seed=given.seed,
    )
    return _measure("speed", given, lambda store, progress: speed.run(model, plan, store, progress, terminal.say_device))


@app.command()
@o.shared("policy", *o.KEPT, *o.MACHINE, "seed", policy="capkv,expected,snapkv,streaming")
def tune(
    given,
    model: o.Model,
    text: Annotated[str, o.option("--text", "FILE", "text like yours: python-docs, python-code, essays, a file or a folder")],
    max_kl: Annotated[float, o.option("--max-kl", "X", "largest mean KL divergence from the full cache, in nats")] = 0.05,
    type: Annotated[str, o.option("--type", "T", "type of the cache")] = "f16",
    ctx: Annotated[int, o.option("--ctx", "N", "tokens of a document", min=1024)] = 4096,
    docs: Annotated[int, o.option("--docs", "N", "documents: one half chooses, the other confirms", min=2)] = 10,
    stride: o.Stride = 4,
):
    """The smallest budget that keeps the loss under a limit on your own text, confirmed on a part of it held out."""
    from .measure import tune
    from .run.rows import Store
    from .run.setups import N_PAD, Setup
    from .tasks import corpora

    names = o.policy_names(given.policy)
    Setup.parse(f"{names[0]}@{N_PAD}:{type}")  # before the model is loaded
    store, found = Store(given.rows, given.keep_old), []
    with _engine(model, given.threads, given.gpu_layers) as engine:
        documents = corpora.documents(engine, text, docs, ctx)
        plan = tune.Plan(documents, names, ctx, max_kl, type, stride, given.seed)
        terminal.say_device(engine.cache_device, engine.n_threads)
        with terminal.bar("tune") as progress:
            try:
                for one in tune.run(engine, plan, store, progress):
                    found.append(one)
            except KeyboardInterrupt:
                print("capkv-bench: interrupted; these policies were done:", file=sys.stderr)
    for line in tune.report(found, plan, model):
        typer.echo(line)
    return 0 if len(found) == len(names) else 130


@app.command()
@o.shared(*o.MACHINE, "seed")
def quick(
    given,
    model: o.Model,
    text: Annotated[str, o.option("--text", "T", "text like yours: python-docs, essays, a file or a folder")] = "python-docs",
    minutes: Annotated[float, o.option("--minutes", "M", "time limit; the documents are as long and as many as fit")] = 10,
    ctx: Annotated[
        int | None, o.option("--ctx", "N", "tokens of a document", show_default="as many as the time allows, up to the trained length")
    ] = None,
    max_kl: Annotated[float, o.option("--max-kl", "X", "largest loss of what is recommended: mean KL divergence in nats")] = 0.05,
    folder: Annotated[
        Path | None, o.option("--folder", "FOLDER", "where page and rows are kept", show_default="quick-MODEL-TEXT")
    ] = None,
    output: Annotated[str, o.option("-o/--output", "FORMAT", "text, or json for programs")] = "text",
):
    """In ten minutes: a page of what budgets lose and gain on your model and text, and the line to type."""
    from .quick import run

    if not minutes > 0:
        raise ValueError(f"--minutes = {minutes:g}: allowed is a number above 0")
    job = run.Job(text, 60 * minutes, ctx, given.seed)
    folder = folder or run.folder_of(model, text)
    return run.run(
        lambda: _engine(model, given.threads, given.gpu_layers), model, job, folder, output, max_kl, _command_line()
    )


@app.command()
@o.shared(*o.SHOWN)
def report(
    given,
    rows: Annotated[list[Path], typer.Argument(metavar="ROWS.jsonl", help="files that --rows wrote", show_default=False)],
    document: Document = None,
):
    """Tables, plots and a page out of rows that were measured before."""
    from .run.rows import Store, newest

    terminal.check(given.output, given.plot)
    for path in rows:
        if not path.exists():
            raise FileNotFoundError(f"no such file of rows: {path}")
    read = [row for path in rows for row in Store(path).rows()]
    found = newest(read)
    if n := len(read) - len(found):
        print(f"capkv-bench: {n} rows are left out, since a later file has the same measurements", file=sys.stderr)
    terminal.finish(found, given.output, given.plot, _command_line())
    _write(document, found, given.plot)
    return 0


@app.command()
@o.shared(*o.MACHINE, "keep_old")
def results(
    given,
    model: o.Model,
    folder: Annotated[Path, o.option("--folder", "FOLDER", "where rows and plots are kept")] = Path("results"),
    document: Document = None,
    size: Annotated[
        str, o.option("--size", "S", "full (a night on a laptop), second (two hours: fewer texts and setups) or short (minutes)")
    ] = "full",
    only: Annotated[str, o.option("--only", "KIND,..", "parts: fidelity, retrieval, continuation, speed", show_default="all")] = "",
    limit: Annotated[float | None, o.option("--limit", "S", "stop measuring after so many seconds", show_default="no limit")] = None,
):
    """What docs/results.md shows: every policy on code and prose, questions, continued texts and speed."""
    from . import full_run

    def make_engine():
        return _engine(model, given.threads, given.gpu_layers)

    done = full_run.run(make_engine, folder, size, o.split(only), limit, given.keep_old)
    rows = full_run.rows_of(folder)
    terminal.finish(rows, "md", folder, _command_line())
    _write(document, rows, folder)
    return 0 if done else 130


def main(args=None) -> int:
    """Run capkv-bench; returns the exit status: 0, 2 after an error, 130 when interrupted."""
    return command.run(lambda: app, "capkv-bench", args)


if __name__ == "__main__":
    sys.exit(main())
