"""capkv-bench quick without a model: what fits a time limit, what rows say, which line is recommended."""

import json
import shlex

import bench_rows
import pytest
import typer.main

from capkv_edge.bench.quick import advice, output, page, steps, words, work
from capkv_edge.bench.quick.cost import Cost, line
from capkv_edge.bench.quick.found import find
from capkv_edge.bench.quick.steps import Step
from capkv_edge.bench.measure import fidelity
from capkv_edge.bench.run.setups import Setup
from capkv_edge.chat import cli as chat_cli

MIB = 2**20
#: a machine that reads 1,000 tokens a second at any depth, and takes a second to start a process
EVEN = Cost(read={"f16": (0.001, 0.0), "q8_0": (0.001, 0.0)}, decode_s=0.0, score_s=0.0, load_s=0.0)
NAMES = ("q8_0", "q4_0", "capkv@1024:q8_0", "capkv@512:q8_0", "capkv@256:q8_0")  # all but the floor


def seconds(n_ctx: int, n_docs: int, n_rounds: int) -> float:
    wanted = [Step("core", i) for i in range(n_docs)] + [Step("speed", i) for i in range(n_rounds)]
    return sum(step.seconds(n_ctx, EVEN) for step in wanted)


def limit(n_ctx: int, n_docs: int, n_rounds: int) -> float:
    """The time limit that is just enough."""
    return seconds(n_ctx, n_docs, n_rounds) / (1 - steps.PROBE_SHARE) + 1e-9


# --- what fits ---


def test_documents_are_as_long_as_the_time_allows():
    allowed = steps.lengths(16384, 1_000_000)
    assert allowed == [1024, 2048, 4096, 8192, 16384]
    for n_ctx in allowed:
        assert steps.choose_length(allowed, EVEN, limit(n_ctx, 3, 1), lambda n: 16) == n_ctx
    assert steps.choose_length(allowed, EVEN, limit(4096, 3, 1) - 1, lambda n: 16) == 2048
    assert steps.choose_length(allowed, EVEN, limit(4096, 2, 1), lambda n: 2) == 4096
    assert steps.choose_length(allowed, EVEN, limit(1024, 1, 1), lambda n: 16) == 1024


def test_documents_are_no_longer_than_model_and_text():
    assert steps.lengths(3000, 1_000_000) == [1024, 2048]
    assert steps.lengths(16384, 3 * 4096) == [1024, 2048, 4096] and steps.lengths(16384, 3 * 4096 - 1) == [1024, 2048]
    assert steps.lengths(16384, 1500) == [1024]
    with pytest.raises(ValueError, match="trained for 512 tokens; a quick run reads documents of 1,024"):
        steps.lengths(512, 1_000_000)


def test_a_time_limit_that_is_too_short_says_what_is_needed():
    least = limit(1024, 1, 1)
    with pytest.raises(ValueError, match=r"--minutes = 0\.1: one document of 1,024 tokens .* take about (\S+) minutes") as caught:
        steps.choose_length([1024, 2048], EVEN, 6, lambda n: 16)
    assert f"about {least / 60:.1f} minutes" in str(caught.value)


def test_steps_come_in_the_order_of_their_weight_and_none_is_missing():
    found = steps.steps(16)
    assert found[:2] == [Step("core", 0), Step("speed", 0)] and len(set(found)) == len(found) == 2 * 16 + steps.MOST_ROUNDS
    first_f16 = found.index(Step("more", 0))
    assert {step for step in found[:first_f16]} == {Step("core", i) for i in range(6)} | {Step("speed", 0), Step("speed", 1)}
    assert Step("core", 1) not in steps.steps(1)


def test_all_caches_are_scored_on_the_same_tokens_after_all_first_evictions():
    for n_ctx in (1024, 2048, 4096):
        first = steps.first_scored(n_ctx)
        plan = fidelity.Plan([], [], [n_ctx], steps.stride(n_ctx), score_from=first)
        setups = [*steps.core(n_ctx), *steps.more(n_ctx)]
        assert {plan.window(setup, n_ctx) for setup in setups} == {(first, n_ctx - 1)}
        assert max(setup.n_cells for setup in setups) <= first < n_ctx - 100 and first % plan.stride == 0


def test_the_time_of_a_reading_grows_with_what_is_held():
    cost = Cost(read={"f16": (1e-3, 1e-6), "q8_0": (2e-3, 2e-6)}, decode_s=0.1, score_s=1e-3, load_s=1)
    assert cost.reading(Setup(), 2000) == pytest.approx(1.2 * 2000 * (1e-3 + 1e-6 * 1000))
    assert cost.reading(Setup.parse("q4_0"), 2000, 100) == pytest.approx(1.2 * (2000 * (2e-3 + 2e-6 * 1000) + 0.1))
    assert cost.reading(Setup.parse("capkv@128:q8_0"), 2000) < cost.reading(Setup.parse("q8_0"), 2000)
    assert cost.case(Setup(), 2000, 32) > cost.reading(Setup(), 2000) + 3.2


def test_a_batch_during_which_the_machine_was_busy_does_not_tilt_the_estimate():
    depths = [128.0 * i + 192 for i in range(7)]
    taken = [0.004 + 1e-6 * depth for depth in depths]
    assert line(depths, taken) == pytest.approx((0.004, 1e-6))
    assert line(depths, [*taken[:5], 0.05, taken[6]]) == pytest.approx((0.004, 1e-6), rel=0.1)
    assert line(depths, [taken[0], *(0.05 for _ in taken[1:])]) == pytest.approx((taken[0], 0))
    assert line(depths, taken[::-1])[1] == 0 and line(depths[:1], taken[:1]) == (taken[0], 0)


# --- the time limit ---


class Machine:
    """A clock, and steps that take `slow` times as long as EVEN says."""

    def __init__(self, monkeypatch, slow: float):
        self.time, self.slow, self.ran = 0.0, slow, []
        monkeypatch.setattr(work, "_measure", self.measure)

    def measure(self, step, state, job, model, store, progress):
        self.ran.append(step)
        setups = step.setups(state.n_ctx)
        for setup in setups:
            self.time += self.slow * step.seconds(state.n_ctx, EVEN) / len(setups)
            yield dict(kind="fidelity", setup=setup.name)

    def run(self, minutes: float, n_docs: int = 16) -> work.State:
        state = work.State(1024, [None] * n_docs, 768, EVEN, todo=steps.steps(n_docs))
        for _ in work.run(state, work.Job("text", 60 * minutes), None, None, 60 * minutes, now=lambda: self.time):
            pass
        return state


@pytest.mark.parametrize("slow", [0.5, 1, 3])
def test_a_run_ends_within_its_time_although_the_estimate_was_wrong(monkeypatch, slow):
    machine = Machine(monkeypatch, slow)
    state = machine.run(2)
    assert 0.5 * 120 < machine.time <= 120
    assert machine.ran == state.done and state.todo[0] not in state.done and len(state.done) >= 3


def test_the_first_document_and_round_are_measured_even_where_time_is_short(monkeypatch):
    assert Machine(monkeypatch, 2).run(seconds(1024, 1, 1) / 60).done == [Step("core", 0)]  # broken off in the round
    assert Machine(monkeypatch, 1.2).run(seconds(1024, 1, 1) / 60).done == [Step("core", 0), Step("speed", 0)]


def test_a_run_ends_where_all_is_measured(monkeypatch):
    assert Machine(monkeypatch, 1).run(1000, n_docs=2).todo == []


def test_what_will_be_measured_is_said_with_its_time():
    state = work.State(1024, [None] * 16, 768, EVEN, todo=steps.steps(16))
    taken = seconds(1024, 6, 2)
    text = work.describe(state, taken + 1)
    assert text.startswith(f"6 documents, 2 rounds of speed: about {taken / 60:.1f} minutes (7 caches for a document of 1,024 tokens, 6")
    assert "in f16" in work.describe(state, 10 * taken)


# --- what rows say ---


def speed_rows(n_bytes: dict, n_rounds: int = 2, **changes) -> list:
    """Rounds in which each cache decodes so much faster than the full one as it is smaller; the third digit is of the round."""
    out = []
    for i in range(n_rounds):
        for name, held in {"full": 32 * MIB, **n_bytes}.items():
            setup = steps.as_in_chat(Setup.parse(name))
            fast = 32 * MIB / held * (1 + 0.01 * i if name != "full" else 1)
            row = dict(bench_rows.COMMON, kind="speed", setup=setup.name, round=i + 1, test="tg32 @ d2048", n_depth=2048, n_gen=32)
            cells = setup.n_cells or 2080
            row |= dict(policy=setup.policy, budget=setup.budget or None, type_k=setup.type, n_cells=cells, n_prompt=0, n_batch=512)
            row |= dict(bytes_total=held, bytes_kv=held - MIB, bytes_obs=MIB // 2, bytes_peak=200 * MIB, fill_ts=100 * fast)
            out.append(row | dict(avg_ts=50 * fast, samples_ts=[50 * fast], stddev_ts=0.0, error=None) | changes)
    return out


SIZES = {"q8_0": 17 * MIB, "q4_0": 9 * MIB, "capkv@1024:q8_0": 13 * MIB, "capkv@512:q8_0": 8 * MIB, "capkv@256:q8_0": 6 * MIB}


HELD = dict(zip(NAMES, (17, 9, 11, 7, 5)))  # MiB while the loss was measured


def some_rows(n_docs=6, sizes=SIZES, n_rounds=2) -> list:
    rows = bench_rows.fidelity(n_docs, names=NAMES, corpora=("novel",), lengths=(2048,))
    rows = [row | dict(bytes_total=HELD[row["setup"]] * MIB) for row in rows]
    floor = [row | dict(setup="full,batch=32", type_k="f16", kl_mean=0.0005) for row in rows if row["setup"] == "q8_0"]
    return floor + rows + speed_rows(sizes, n_rounds)


def test_losses_are_put_beside_those_of_quantized_caches():
    found = find(some_rows())
    assert [one.setup.name for one in found.caches] == ["full", "full,batch=32", *NAMES]
    half, q4 = found.get("capkv@1024:q8_0"), found.get("q4_0")
    assert half.times["q4_0"] == pytest.approx(half.kl.mean / q4.kl.mean) and half.label == "budget 1,024 (1/2), q8_0"
    assert found.get("q8_0").verdict == "less" and found.get("capkv@256:q8_0").verdict == "more" and q4.verdict == ""
    assert (found.n_docs, found.n_rounds, found.n_ctx) == (6, 2, 2048)


def test_the_largest_budget_of_no_more_bytes_stands_beside_a_quantized_cache():
    found = find(some_rows())
    assert (found.beside("q8_0").own.budget, found.beside("q4_0").own.budget) == (1024, 512)
    said = words.equal_bytes(found, "q4_0")
    assert said.startswith("A budget of 512 in q8_0 (7.0 MiB) loses ") and "the full cache in q4_0 (9.0 MiB)" in said
    assert said.endswith("]: more.") and found.beside("q4_0").difference.n == 6
    few = find([row for row in some_rows() if row["setup"] in ("q4_0", "capkv@1024:q8_0")])
    assert few.beside("q4_0") is None and words.equal_bytes(few, "q4_0").startswith("No budget here takes as few bytes")
    assert words.equal_bytes(few, "q8_0") == ""


def test_speed_is_paired_with_the_full_cache_of_the_same_round():
    found = find(some_rows())
    fast = found.decoding(found.get("capkv@512:q8_0"))
    assert (fast.mean, fast.lo, fast.hi) == pytest.approx((4.02, 4, 4.04)) and fast.n == 2 and not fast.is_interval
    assert words.ratio(fast) == "4.02 (4.00, 4.04)"
    many = find(some_rows(n_rounds=5))
    assert words.ratio(many.reading(many.get("q4_0")))[-1] == "]" and many.reading(many.get("q4_0")).n == 5


def test_few_documents_have_no_interval_and_the_reader_is_told():
    found = find(some_rows(n_docs=3))
    told = advice.choose(found, 10, "m.gguf")
    assert words.nats(found.get("q4_0").kl).count("[") == 0 and "3 documents are too few for an interval" in told.warnings[0]
    assert "too few documents (3) for a verdict" in words.equal_bytes(found, "q4_0")


def test_rows_without_a_loss_say_nothing():
    assert find(speed_rows(SIZES)) is None


def test_documents_that_not_all_caches_have_do_not_count():
    rows = [row for row in some_rows() if (row.get("doc"), row["setup"]) != ("doc-05", "capkv@256:q8_0")]
    assert find(rows).n_docs == 5 and find([row for row in rows if row["setup"] != "q4_0"]).n_docs == 0


# --- the line to type ---


def losing(**kl) -> list:
    """Rows in which setups have the given losses, in every document."""
    losses = dict(zip(NAMES, (0.001, 0.04, 0.01, 0.03, 0.2))) | {name.replace("_at_", "@") + ":q8_0": v for name, v in kl.items()}
    return [dict(row, kl_mean=losses.get(row["setup"], 0.0005)) if row["kind"] == "fidelity" else row for row in some_rows()]


def test_the_smallest_cache_within_the_limit_is_recommended():
    told = advice.choose(find(losing()), 0.05, "my models/m.gguf")
    assert told.command == "capkv-chat 'my models/m.gguf' --budget 512 --type q8_0" and told.is_budget
    text = " ".join(told.reasons)
    assert "0.0300, 0.75 times what the full cache in q4_0 loses" in text
    assert "1,024 cells (budget 512 + headroom 512) x 7.0 KiB = 7.0 MiB, + 512.0 KiB of observed queries + 512.0 KiB of" in text
    assert "work memory of an eviction = 8.0 MiB, however long the text becomes" in text
    assert "The smallest full cache within the limit is q4_0: 9.0 MiB after 2,080 tokens, 1.12 times as much" in text
    assert "reads 2,048 tokens 4.02 times (4.00 to 4.04)" in text


def test_a_tighter_limit_gives_a_larger_budget():
    assert advice.choose(find(losing()), 0.02, "m").command == "capkv-chat m --budget 1024 --type q8_0"


def test_where_no_budget_is_worth_it_the_reader_is_told_why():
    told = advice.choose(find(losing(capkv_at_512=0.06)), 0.05, "m.gguf")
    assert told.command == "capkv-chat m.gguf --budget 0 --cache-type-k q4_0 --cache-type-v q4_0" and not told.is_budget
    assert told.headline.startswith("No budget is worth it")
    assert "A budget of 512 loses 0.0600 nats, more than 0.05." in told.reasons
    assert "A budget of 1,024 takes 13.0 MiB, and the full cache in q4_0 takes 9.0 MiB." in told.reasons
    assert told.warnings == []
    assert "trained for 8,192. A full cache grows" in advice.choose(find(losing(capkv_at_512=0.06)), 0.05, "m.gguf", 8192).warnings[0]
    strict = advice.choose(find(losing()), 1e-5, "m.gguf")
    assert strict.command == "capkv-chat m.gguf --budget 0" and "lose more" in strict.reasons[0]


def test_an_interval_above_the_limit_is_a_warning():
    rows = losing()
    for row in rows:
        if row["kind"] == "fidelity" and row["setup"] == "capkv@512:q8_0":
            row["kl_mean"] = 0.02 if row["doc"] in ("doc-00", "doc-01", "doc-02") else 0.04
    told = advice.choose(find(rows), 0.031, "m")
    assert told.cache.setup.name == "capkv@512:q8_0" and "The interval of the loss reaches up to" in told.warnings[0]


def test_nothing_is_recommended_before_memory_was_measured():
    assert advice.choose(find([row for row in some_rows() if row["kind"] == "fidelity"]), 0.05, "m") is None


@pytest.mark.parametrize("limit", [0.05, 0.02, 1e-5])
def test_capkv_chat_understands_the_line(limit):
    name, *args = shlex.split(advice.choose(find(losing()), limit, "m.gguf").command)
    context = typer.main.get_command(chat_cli._app()).make_context(name, args)
    assert name == "capkv-chat" and context.params["model"] == "m.gguf" and context.params["budget"] in ("512", "1024", "0")


# --- what is shown ---


def test_the_summary_has_at_most_15_lines(capsys):
    found = find(losing())
    output.show(found, advice.choose(found, 0.05, "m.gguf"), "m.gguf", "folder/index.html", ["one", "The time is over: go on."])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15 and max(map(len, lines)) <= output.WIDTH
    assert "  capkv-chat m.gguf --budget 512 --type q8_0" in lines and "page: folder/index.html" in lines
    assert lines[0] == "m.gguf on a CPU with 2 cores, 2 threads: 6 documents of 2,048 tokens, 2 rounds of speed"


def test_json_has_the_same_and_null_for_what_is_missing():
    found = find(losing())
    told = json.loads(output.as_json(found, advice.choose(found, 0.05, "m.gguf"), "m.gguf", "p", "r"))
    assert told["recommended"]["budget"] == 512 and told["recommended"]["type"] == "q8_0" and told["n_docs"] == 6
    by_name = {one["setup"]: one for one in told["caches"]}
    assert by_name["capkv@512:q8_0"]["bytes_in_chat"] == 8 * MIB and by_name["full"]["kl"] is None


def test_text_on_the_page_is_never_markup():
    bad = "<script>alert(1)</script>"
    rows = [row | dict(device=bad, **({"corpus": bad} if "corpus" in row else {})) for row in losing()]
    found = find(rows)
    text = page.render(found, advice.choose(found, 0.05, bad), bad, bad, [bad])
    assert bad not in text and text.count("&lt;script&gt;") >= 6
