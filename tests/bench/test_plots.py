"""The plots of capkv-bench: all are there and not blank, their bytes are always the same, the default policy stands out."""

import io
import sys

import bench_rows
import matplotlib
import pytest

from capkv_edge.bench.kinds import KINDS
from capkv_edge.bench.report.plots import draw, style
from capkv_edge.bench.report.summary import summaries

NAMES = ("full", "q4_0", "streaming@256", "capkv@256", "snapkv@256", "streaming@512", "capkv@512", "snapkv@512")


@pytest.fixture(scope="module")
def rows():
    found = bench_rows.fidelity(6, names=NAMES, corpora=("novel",))
    found += bench_rows.retrieval(6, names=NAMES, tasks=("needle", "table"), n_items=3)
    return found + bench_rows.speed(names=("full", "capkv@512"), depths=(0, 2048))


@pytest.fixture(scope="module")
def saved(rows, tmp_path_factory):
    return draw.save(rows, tmp_path_factory.mktemp("plots"))


def pixels(data):
    from matplotlib.image import imread

    return imread(io.BytesIO(data), format="png")


def test_every_kind_of_plot_is_written_1200_pixels_wide_and_not_blank(saved):
    assert [path.name for path in saved] == ["quality.png", "retrieval.png", "heat-1.png", "heat-2.png", "speed.png"]
    vermilion = matplotlib.colors.to_rgb(style.VERMILION)
    for path in saved:
        image = pixels(path.read_bytes())[..., :3]
        assert image.shape[1] == 1200
        assert 0.02 < (image.min(axis=2) < 0.95).mean() < 0.9
        if not path.name.startswith("heat"):
            assert (abs(image - vermilion).max(axis=2) < 0.01).sum() > 500


def test_a_map_of_few_questions_is_drawn_only_where_there_is_no_better_one():
    few, many = (bench_rows.retrieval(n, names=("full",), tasks=(task,), n_items=2) for n, task in ((2, "few"), (8, "many")))
    (plot,) = [one for one in draw.plots(few + many) if one.name.startswith("heat")]
    assert "many" in plot.title and "few" not in plot.title
    assert any("few" in one.title for one in draw.plots(few) if one.name.startswith("heat"))


def test_the_same_rows_give_the_same_bytes_whatever_the_users_settings(rows, saved):
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 50}):
        again = draw.plots([row for row in rows if row["kind"] != "retrieval"])
        found = {plot.name: plot.png() for plot in again}
        assert matplotlib.rcParams["font.size"] == 20
    for name, data in found.items():
        assert data == next(path for path in saved if path.stem == name).read_bytes()
    assert b"Software" not in found["quality"] and b"tIME" not in found["quality"]


def test_without_matplotlib_the_error_has_the_command_that_installs_it(rows, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'capkv-edge\[bench\]'"):
        draw.save(rows, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def drawn(rows, name, default="capkv", floor=draw.FLOOR):
    """The plot of that name; the others are not drawn. None where there is none."""
    kind, drawing = next((kind, one) for kind in KINDS.values() for one in kind.plots if one.name == name)
    own = [row for row in rows if row["kind"] == kind.name]
    with style.drawing():
        return next(iter(draw.DRAW[drawing.how](own, kind, drawing, default, floor)), None)


def test_the_default_policy_is_drawn_on_top_and_widest(rows):
    for default in ("capkv", "snapkv"):
        for ax in drawn(rows, "quality", default=default).figure.axes:
            lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
            others = [line for label, line in lines.items() if label != default]
            assert len(others) == 2
            for get in ("get_zorder", "get_linewidth"):
                assert getattr(lines[default], get)() > max(getattr(line, get)() for line in others)
            assert lines[default].get_color() == style.VERMILION
            assert all(line.get_color() != style.VERMILION for line in others)


def test_the_points_of_a_line_are_the_means_of_the_summaries(rows):
    found = [one for one in summaries(rows, "fidelity") if one.series == "snapkv" and one.group["n_ctx"] == 4096]
    ax = drawn(rows, "quality").figure.axes[1]
    (line,) = [line for line in ax.lines if line.get_label() == "snapkv"]
    assert list(zip(*line.get_data())) == [(one.share, one.figures["kl_mean"].mean) for one in found]


def test_a_title_says_that_a_setup_has_fewer_documents(rows):
    def title(own):
        return drawn(own, "quality").figure.axes[0].get_title(loc="left")

    own = [row for row in rows if row["kind"] == "fidelity"]
    docs = sorted({row["doc"] for row in own})
    fewer = [row for row in own if not (row["setup"].startswith("snapkv") and row["doc"] == docs[0])]
    assert title(own).endswith(f"n = {len(docs)}") and title(fewer).endswith(f"n = {len(docs) - 1} to {len(docs)}")


def test_no_two_policies_look_the_same():
    names = [
        "capkv",
        "capkv-ref",
        "expected",
        "snapkv",
        "h2o",
        "tova",
        "keydiff",
        "knorm",
        "leverage",
        "streaming",
        "random",
        "shift",
    ]
    looks = style.styles([*names, "mine", "yours"], "capkv")
    assert len({(style.color, style.marker, str(style.dash)) for style in looks.values()}) == len(names) + 2
    assert style.styles(names, "capkv")["h2o"] == style.styles(["h2o", "tova"], "capkv")["h2o"]


def test_a_policy_in_other_types_and_with_recall_looks_different_each_time():
    names = ["capkv", "capkv:q8_0", "capkv:q4_0", "capkv+recall", "capkv,novelty=0", "streaming:q8_0"]
    looks = style.styles(names, "capkv")
    assert len({(one.color, one.marker, str(one.dash)) for one in looks.values()}) == len(names)
    assert all(looks[name].is_hollow for name in names[1:]) and len({one.color for one in looks.values()}) == 2


def texts_of(ax) -> set:
    return {text.get_text() for text in ax.texts}


def lines_of(ax) -> dict:
    return {line.get_label(): line for line in ax.lines}


def test_the_floor_of_rounding_is_a_line_where_it_was_measured():
    rows = bench_rows.fidelity(6, names=("q8_0", "q4_0", "capkv@256", "capkv@512"), corpora=("novel",))
    rows = [row for row in rows if row["setup"] != "q8_0" or row["n_ctx"] == 2048]
    rows += [bench_rows.fidelity_row("full,batch=256", f"doc-{i:02}", 0.002, "novel", 2048) for i in range(6)]
    plot = drawn(rows, "quality")
    first, second = (lines_of(ax) for ax in plot.figure.axes)
    assert first["floor of rounding"].get_ydata()[0] == pytest.approx(0.002) and "floor of rounding" not in second
    assert [texts_of(ax) for ax in plot.figure.axes] == [{"q8_0", "q4_0"}, {"q4_0"}]
    assert "Dotted is what rounding alone loses" in plot.caption


def test_recall_and_the_loss_of_the_answer_have_their_places():
    rows = bench_rows.retrieval(6, names=("full", "q4_0", "capkv@256", "capkv@512"), tasks=("needle",), lengths=(2048,))
    assert drawn(rows, "answer-loss") is None
    rows += [row | dict(setup=row["setup"] + "+recall", recall=256) for row in rows if row["setup"] != "q4_0"]
    rows = [row | dict(nll=3.0 - 2 * row["score"]) for row in rows]
    for name, floor in (("retrieval", 10), ("answer-loss", 2)):
        (ax,) = [ax for ax in drawn(rows, name).figure.axes if ax.axison]
        assert texts_of(ax) == {"q4_0", "full+recall"}
        assert {"capkv", "capkv+recall", "full cache"} <= set(lines_of(ax)) and lines_of(ax)["floor"].get_ydata()[0] == floor
    hard = drawn([row | dict(score=0.1) for row in rows], "answer-loss")  # also where the full cache answers little
    assert hard is not None and drawn([row | dict(score=0.1) for row in rows], "retrieval") is None


def test_retrieval_is_shown_only_where_the_full_cache_can_do_it(rows):
    all_of_them = drawn(rows, "retrieval", floor=0.0)
    assert len([ax for ax in all_of_them.figure.axes if ax.axison]) == 4 and "Left out" not in all_of_them.caption
    needles = drawn(rows, "retrieval", floor=0.8)
    assert [ax.get_title(loc="left").split(",")[0] for ax in needles.figure.axes if ax.axison] == ["needle", "needle"]
    assert "Left out: 2 of 4, where the full cache is below 80% or missing" in needles.caption
    assert drawn(rows, "retrieval", floor=1.01) is None


def test_the_legend_covers_no_data(rows):
    figure = drawn(rows, "quality").figure
    with style.drawing():
        figure.savefig(io.BytesIO(), format="png")
        box = figure.legends[0].get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_models_have_plots_of_their_own(rows):
    other = [row | dict(model="other.gguf", model_hash="e" * 32) for row in rows if row["kind"] == "fidelity"]
    both = [*other, *(row for row in rows if row["kind"] == "fidelity")]
    assert [plot.name for plot in draw.plots(both)] == ["quality-01234567", "quality-eeeeeeee"]


def test_no_rows_and_tests_without_figures_give_no_plots(tmp_path):
    failed = [row | dict(avg_ts=None, error="killed") for row in bench_rows.speed(names=("full",))]
    assert draw.save(failed, tmp_path / "none") == [] == draw.plots([])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("n_docs", [1, 3])
def test_few_documents_give_points_without_bands(n_docs):
    rows = bench_rows.fidelity(n_docs, names=("q8_0", "capkv@256", "capkv@512", "h2o@512"), corpora=("novel",), lengths=(4096,))
    assert len(pixels(drawn(rows, "quality").png())) > 300
