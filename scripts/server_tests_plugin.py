"""pytest plugin for llama.cpp's server tests: the downloaded models are replaced by the local one that STAND_IN names."""

import os
import sys
import types

sys.modules["wget"] = types.ModuleType("wget")  # imported by the tests, used for downloads alone


def pytest_collection(session):
    import utils

    preset = utils.ServerPreset

    def standing_in(make):
        def made():
            server = make()
            server.model_hf_repo = server.model_hf_file = None
            server.model_file = os.environ["STAND_IN"]
            return server

        return staticmethod(made)

    for name in ("tinyllama2", "tinyllama_infill"):
        setattr(preset, name, standing_in(getattr(preset, name)))
    preset.load_all = staticmethod(lambda: None)
