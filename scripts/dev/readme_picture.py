"""Draw README's picture, docs/picture.svg: what a cache with a budget holds, and what that loses for how many bytes.

    python scripts/dev/readme_picture.py [OUT.svg | OUT.png] [--dark]

The right half is drawn from docs/results/rows.jsonl. The SVG follows the reader's light or dark mode; a PNG, to look at the
picture where no browser is at hand, is light, or dark with --dark. Needs matplotlib: pip install 'capkv-edge[bench]'.
"""

import argparse
import io
import json
import random
import sys
from pathlib import Path

from capkv_edge.bench.report.plots import style
from capkv_edge.bench.report.summary import summaries

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "results" / "rows.jsonl"
PICTURE = ROOT / "docs" / "picture.svg"

CORPUS, LENGTH = "python-code", 2048
SERIES = {
    "capkv:q8_0": "capkv in q8_0 (default)",
    "capkv": "capkv",
    "snapkv": "snapkv",
    "streaming": "streaming (sinks and recent)",
    "shift": "context shift",
}
QUANTIZED = ("q8_0", "q4_0")

# the left half, as an example: 40 tokens, a budget of 19 of them; which tokens the middle keeps is drawn at random
N_TOKENS, N_SINK, N_RECENT, N_CHOSEN, N_HEADROOM = 40, 3, 7, 9, 6
HEADS = 3
SINK, CHOSEN, RECENT = style.BLUE, style.VERMILION, style.GREEN
LIGHT, DARK = "#1f2328", "#e6edf3"  # text on the page of a reader in light and in dark mode


def draw_cache(ax) -> None:
    """A text as a row of squares, and below it what each of three KV heads holds of it."""
    from matplotlib.patches import Rectangle

    def square(x: float, y: float, color: str, filled: bool) -> None:
        face, alpha = (color, 1) if filled else ("none", 0.55)
        ax.add_patch(Rectangle((x + 0.08, y), 0.84, 0.84, facecolor=face, edgecolor=color, linewidth=0.7, alpha=alpha))

    def text(x: float, y: float, words: str, **options) -> None:
        ax.text(x, y, words, **{"ha": "center", "va": "center", **options})

    choice = random.Random(3)
    first_recent = N_TOKENS - N_RECENT
    text(0, 9.6, "the text so far", ha="left")
    for i in range(N_TOKENS):
        square(i, 7.9, style.GREY, True)
    text(0, 6.9, "what is kept of it: each KV head of each layer chooses for itself", ha="left")
    for head in range(HEADS):
        middle = set(choice.sample(range(N_SINK, first_recent), N_CHOSEN))
        for i in range(N_TOKENS):
            color = SINK if i < N_SINK else RECENT if i >= first_recent else CHOSEN if i in middle else style.GREY
            square(i, 5.3 - 1.15 * head, color, color != style.GREY)

    text(0, 1.7, "in memory: budget + headroom cells, however long the text is", ha="left")
    n_budget = N_SINK + N_CHOSEN + N_RECENT
    for i in range(n_budget + N_HEADROOM):
        color = SINK if i < N_SINK else CHOSEN if i < n_budget - N_RECENT else RECENT if i < n_budget else style.GREY
        square(i, 0.1, color, i < n_budget)
    starts = (0, N_SINK, n_budget - N_RECENT, n_budget, n_budget + N_HEADROOM)
    names = (("sinks", SINK), ("chosen middle", CHOSEN), ("recent tail", RECENT), ("headroom", style.GREY))
    for (name, color), left, right in zip(names, starts, starts[1:]):
        ax.plot([left + 0.1, right - 0.1], [-0.35, -0.35], color=color, linewidth=1.6, solid_capstyle="butt")
        text((left + right) / 2, -1, name, color=color)
    ax.set(xlim=(-0.5, N_TOKENS + 0.5), ylim=(-1.5, 10.2))
    ax.set_axis_off()


def draw_quality(ax, rows: list[dict], ink: str) -> None:
    """Mean KL divergence against the bytes held: some policies over their budgets, quantized full caches as diamonds."""
    found = [one for one in summaries(rows, "fidelity") if one.group["corpus"] == CORPUS and one.group["n_ctx"] == LENGTH]
    found = [one for one in found if one.figures["kl_mean"].mean > 0]
    looks = style.styles(SERIES, "capkv")
    for series, label in SERIES.items():
        points = sorted((one.share, one.figures["kl_mean"]) for one in found if one.series == series and "@=" not in one.setup)
        x = [share for share, _ in points]
        ax.plot(x, [kl.mean for _, kl in points], label=label, **looks[series].line)
        if looks[series].is_default:
            low, high = ([getattr(kl, end) for _, kl in points] for end in ("lo", "hi"))
            ax.fill_between(x, low, high, color=looks[series].color, alpha=0.22, linewidth=0)
    for one in (one for one in found if one.setup in QUANTIZED):
        x, y = one.share, one.figures["kl_mean"].mean
        ax.plot(x, y, "D", color=ink, markersize=5.5, zorder=12)
        below = dict(xytext=(-5, -13), ha="right") if y > 0.01 else dict(xytext=(0, 8), ha="center")
        ax.annotate(f"full cache in {one.setup}", (x, y), textcoords="offset points", **below)
    style.log_axis(ax)
    style.share_axis(ax, [one.share for one in found])
    ax.set_xlabel("bytes held, % of the full f16 cache")
    ax.set_ylabel("mean KL divergence from the full cache, nats")
    ax.set_title(f"SmolLM2-135M Q4_1, {LENGTH:,} tokens of {CORPUS} (lower, left: better)")
    ax.legend(loc="lower left", handlelength=2.8)


def draw(rows: list[dict], ink: str):
    """The whole picture, with text and axes in the colour `ink`; within style.drawing()."""
    import matplotlib
    from matplotlib.figure import Figure

    names = ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")
    matplotlib.rcParams.update({f"{name}color": ink for name in names})
    matplotlib.rcParams.update({"font.size": 9.5, "axes.titlesize": 9.5, "axes.facecolor": "none"})
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    draw_cache(left)
    draw_quality(right, rows, ink)
    return figure


def to_svg(figure) -> str:
    """An SVG of its own whose text and axes follow the mode of the page that shows it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    colors = f"svg {{ color: {LIGHT} }} @media (prefers-color-scheme: dark) {{ svg {{ color: {DARK} }} }} "
    start = '<style type="text/css">'
    return out.getvalue().replace(LIGHT, "currentColor").replace(start, start + colors, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=PICTURE, help="an .svg or .png file (default: docs/picture.svg)")
    parser.add_argument("--dark", action="store_true", help="a PNG on a dark page")
    args = parser.parse_args()
    if args.out.suffix not in (".svg", ".png"):
        parser.error(f"{args.out}: allowed are files that end in .svg or .png")
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    with style.drawing():
        if args.out.suffix == ".svg":
            args.out.write_text(to_svg(draw(rows, LIGHT)), encoding="utf-8")
        else:
            figure = draw(rows, DARK if args.dark else LIGHT)
            figure.savefig(args.out, dpi=style.DPI, facecolor="#0d1117" if args.dark else "white")
    return 0


if __name__ == "__main__":
    sys.exit(main())
