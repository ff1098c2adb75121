"""How the plots look: each policy has one colour, marker and dash in all of them, and colour-blind eyes can tell them apart.

The hues are Okabe and Ito's. Policies that score by queries have solid lines, those that score by keys alone dashed ones, those
that use neither dotted grey ones; vermilion is for the default policy alone. matplotlib is imported when it is first used.
"""

import io
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b

WIDTH = 1200 / 144  # inches: 1200 px in a PNG
DPI = 144

VERMILION, ORANGE, BLUE, GREEN, SKY, PURPLE, GREY = "#D55E00", "#E69F00", "#0072B2", "#009E73", "#56B4E9", "#CC79A7", "#7f7f7f"
INK = "#1f2328"  # text and axes
DOTTED = (0, (1.2, 1.6))
_DASHED, _MIXED = (0, (5, 2)), (0, (6, 1.5, 1.2, 1.5))
#: of a policy in other types, with other options or with recall: dash, marker (None: the policy's)
_VARIANTS = ((_MIXED, None), (_DASHED, "D"), (DOTTED, "s"), ((0, (2.5, 1, 1, 1, 1, 1)), "^"), ((0, (8, 2.5)), "v"))


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    dash: object = "-"
    width: float = 1.4
    is_default: bool = False
    is_hollow: bool = False

    @property
    def line(self) -> dict:
        """The keywords of ax.plot()."""
        return dict(
            color=self.color,
            marker=self.marker,
            linestyle=self.dash,
            linewidth=self.width,
            markersize=6 if self.is_default else 4.6,
            markerfacecolor="none" if self.is_hollow else self.color,
            markeredgewidth=1,
            zorder=self.order,
        )

    @property
    def order(self) -> int:
        return 10 if self.is_default else 3


POLICIES = {
    "capkv": Style(ORANGE, "D"),  # where another policy is the default
    "capkv-ref": Style(ORANGE, "D"),
    "expected": Style(BLUE, "s"),
    "snapkv": Style(GREEN, "^"),
    "h2o": Style(SKY, "v"),
    "tova": Style(PURPLE, "P"),
    "keydiff": Style(BLUE, "X", _DASHED),
    "knorm": Style(GREEN, "<", _DASHED),
    "leverage": Style(PURPLE, ">", _DASHED),
    "streaming": Style(GREY, "s", DOTTED),
    "random": Style(GREY, "X", DOTTED),
    "shift": Style(GREY, "*", _MIXED),
}
_SPARE = [Style(color, "h", _MIXED) for color in (SKY, PURPLE, GREEN, BLUE, ORANGE)]
FULL = Style(INK, "D", _DASHED, 1.2)


def styles(names, default: str) -> dict:
    """A Style for each series. For the policies in POLICIES it does not depend on the other names."""
    out: dict = {}
    spare, variants = 0, Counter()
    for name in sorted(set(names)):
        policy = re.split("[:,+]", name)[0]
        style = POLICIES.get(policy)
        if policy == default:
            style = Style(VERMILION, "o", width=2.6, is_default=name == default)
        elif style is None:
            style, spare = _SPARE[spare % len(_SPARE)], spare + 1
        if name != policy:
            dash, marker = _VARIANTS[variants[policy] % len(_VARIANTS)]
            style = replace(style, is_hollow=True, dash=dash, marker=marker or style.marker, width=1.4)
            variants[policy] += 1
        out[name] = style
    return out


def series_class(series: str) -> str:
    """A class name for a series that is valid in HTML and CSS, whatever the series is called."""
    return "s-" + blake2b(series.encode(), digest_size=5).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# matplotlib


def matplotlib():
    """The module. Raises ImportError with the command that installs it."""
    try:
        import matplotlib as module
    except ImportError as err:
        raise ImportError(f"plots need matplotlib: pip install 'capkv-edge[bench]' ({err})") from None
    return module


@contextmanager
def drawing():
    """matplotlib with our settings and without the user's; they are restored at the end."""
    module = matplotlib()
    with module.rc_context():
        module.rcdefaults()
        module.rcParams.update(
            {
                "font.family": "DejaVu Sans",  # comes with matplotlib
                "font.size": 8.5,
                "axes.titlesize": 9,
                "axes.titlelocation": "left",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": GREY,
                "grid.alpha": 0.22,
                "grid.linewidth": 0.6,
                "legend.frameon": False,
                "lines.solid_capstyle": "round",
                "text.parse_math": False,
                "svg.fonttype": "path",
                "svg.hashsalt": "capkv",
                **{f"{name}color": INK for name in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")},
            }
        )
        yield module


@dataclass(frozen=True)
class Plot:
    name: str
    title: str
    caption: str
    figure: object = field(repr=False)

    def png(self) -> bytes:
        """1200 pixels wide; the same bytes for the same rows."""
        out = io.BytesIO()
        with drawing():
            self.figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        return out.getvalue()

    def svg(self, prefix: str) -> str:
        """For the page: text and axes have the page's colour, the parts of a series have its class, and ids begin with the prefix."""
        out = io.StringIO()
        with drawing():
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(out, format="svg", transparent=True, metadata=nothing)
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
        text = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", text, count=1)
        text = re.sub(r' id="(s-[0-9a-f]{10})"', r' class="\1"', text)
        text = re.sub(r' id="([^"]*)"', rf' id="{prefix}\1"', text)
        text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
        return text.replace(INK, "currentColor")


def new_figure(rows: int, columns: int, height: float, **options):
    """(Figure, its axes [rows, columns]); each row is `height` inches high."""
    matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, rows * height + 0.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, hspace=0.03, wspace=0.03)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def label_axes(figure, axes, x: str, y: str) -> None:
    """One label for the y axes of all panels, and one for x below each column of panels. axes: all of them, also empty ones."""
    for column in axes.T:
        shown = [ax for ax in column if ax.axison]
        if shown:
            shown[-1].set_xlabel(x)
    figure.supylabel(y, fontsize="medium")


def add_legend(figure, axes, order, bold: bool = True) -> None:
    """One legend below all axes, with each name once, in the given order; the first one is bold."""
    found = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    names = sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    if names:
        widest = max(map(len, names))
        columns = min(len(names), max(1, 110 // (widest + 7)))
        legend = figure.legend(
            [found[name] for name in names],
            names,
            loc="outside lower center",
            ncols=columns,
            handlelength=2.8,
            columnspacing=1.6,
        )
        for name, handle, text in zip(names, legend.legend_handles, legend.get_texts()):
            gid = found[name].get_gid()
            handle.set_gid(gid)
            text.set_gid(gid)
            if bold and name == order[0]:
                text.set_fontweight("bold")


def share_axis(ax, shares) -> None:
    """Make the x axis one of bytes held, as a share of the full cache, with ticks at powers of two."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = min([share for share in shares if share > 0], default=0.5)
    ticks = [2.0**-i for i in range(0, 14) if 2.0**-i >= low * 0.75]
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.{1 if x < 0.2 else 0}f}"))
    ax.set_xlim(low * 0.8, max(1.15, *(1.1 * share for share in shares)))


def log_axis(ax) -> None:
    """Make the y axis logarithmic, with its numbers written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(10))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.10f}".rstrip("0").rstrip(".") if y < 1 else f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
