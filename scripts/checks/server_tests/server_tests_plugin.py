"""pytest plugin for llama.cpp's server tests: replaces the models that they download, leaves tests out, writes the outcomes.

It reads from the environment STAND_IN (the path of the model), LEFT_OUT (JSON, {tests: reason}) and OUTCOMES (the file to write).
"""

import json
import os
import sys
import types

PRESETS = ("tinyllama2", "tinyllama_infill", "stories15m_moe")

sys.modules["wget"] = types.ModuleType("wget")  # the tests import it, for downloads alone
outcomes: dict[str, str] = {}


def pytest_collection():
    import utils

    preset, process = utils.ServerPreset, utils.ServerProcess
    start = process.start

    def standing_in(make):
        def made():
            server = make()
            server.model_hf_repo = server.model_hf_file = None
            server.model_file = os.environ["STAND_IN"]
            return server

        return staticmethod(made)

    def start_with_flash_attention(self, *args, **options):
        if self.fa == "off":  # a budget needs flash attention; nothing that these tests look at depends on it
            self.fa = "on"
        return start(self, *args, **options)

    for name in PRESETS:
        setattr(preset, name, standing_in(getattr(preset, name)))
    preset.load_all = staticmethod(lambda: None)
    process.start = start_with_flash_attention
    utils.download_file = lambda *_, **__: os.environ["STAND_IN"]  # draft models


def matches(test: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return test.startswith(pattern[:-1])
    return test == pattern or test.startswith((pattern + "::", pattern + "["))


def pytest_collection_modifyitems(config, items):
    left_out = json.loads(os.environ["LEFT_OUT"])
    kept, dropped = [], []
    for item in items:
        reason = next((why for pattern, why in left_out.items() if matches(item.nodeid, pattern)), None)
        if reason is None and item.get_closest_marker("slow"):
            reason = "slow: downloads a model of gigabytes"
        (kept if reason is None else dropped).append(item)
        if reason is not None:
            outcomes[item.nodeid] = f"left out: {reason}"
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def pytest_runtest_logreport(report):
    before = outcomes.get(report.nodeid)
    if report.failed or (report.when == "call" and before is None) or report.skipped:
        outcomes[report.nodeid] = report.outcome


def pytest_unconfigure():
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump(outcomes, file)
