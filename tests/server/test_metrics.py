"""/metrics: gauges of the cells and counters of evictions, for Prometheus."""

from driving import text

BUDGET = ("--kv-budget", 128)
COUNTERS = ("kv_evictions_total", "kv_evicted_tokens_total", "kv_eviction_seconds_total", "kv_reread_tokens_total")


def test_gauges_and_counters_are_those_of_the_slots(serve):
    server = serve(*BUDGET, "-np", 2, "--no-kv-unified", "-c", 8192)
    empty = server.metrics()
    assert [empty[name] for name in COUNTERS] == [0] * 4 and "kv_capacity_retained_ratio" not in empty
    assert (empty["kv_budget_tokens"], empty["kv_cells"], empty["kv_cache_tokens"], empty["kv_cache_usage_ratio"]) == (128, 512, 0, 0)
    kv = [server.complete(text(600, seed=slot), n=20, slot=slot, n_keep=9)["kv"] for slot in range(2)]
    full = server.metrics()
    assert full["kv_evictions_total"] == sum(one["evictions"] for one in kv)
    assert full["kv_evicted_tokens_total"] == sum(one["evicted"] for one in kv)
    assert abs(full["kv_eviction_seconds_total"] - sum(one["ms"] for one in kv) / 1e3) < 1e-3
    assert full["kv_cache_tokens"] == sum(one["held"] for one in kv) and full["kv_pinned_tokens"] == 20
    assert abs(full["kv_cache_usage_ratio"] - full["kv_cache_tokens"] / 512) < 1e-4
    assert abs(full["kv_capacity_retained_ratio"] - sum(one["capacity"] for one in kv) / 2) < 1e-3


def test_counters_never_go_back_and_count_nothing_twice(serve, tmp_path):
    server = serve(*BUDGET, "--slot-save-path", tmp_path)
    first = server.complete(text(600), n=20)["kv"]
    server.slot(0, "save")
    server.slot(0, "erase")
    assert server.metrics()["kv_evictions_total"] == first["evictions"] and server.metrics()["kv_cache_tokens"] == 0
    server.slot(0, "restore")  # its evictions were counted when they happened
    assert server.metrics()["kv_cache_tokens"] == first["held"]
    again = server.complete(text(600, seed=1), n=20)["kv"]
    assert server.metrics()["kv_evictions_total"] == first["evictions"] + again["evictions"]


def test_the_text_is_what_prometheus_reads(serve):
    lines = serve(*BUDGET).get("/metrics")["text"].splitlines()
    for kind, name in (("counter", "kv_evictions_total"), ("gauge", "kv_cache_usage_ratio")):
        at = lines.index(f"# TYPE llamacpp:{name} {kind}")
        assert lines[at - 1].startswith(f"# HELP llamacpp:{name} ") and lines[at + 1].startswith(f"llamacpp:{name} ")


def test_a_server_that_slept_still_says_what_it_counted(serve):
    server = serve(*BUDGET, "--sleep-idle-seconds", 1)
    kv = server.complete(text(600), n=20)["kv"]
    server.metrics()
    for _ in range(600):
        if "entering sleeping state" in server.log():
            break
        server.pause(0.05)
    assert server.metrics()["kv_evictions_total"] == kv["evictions"]
