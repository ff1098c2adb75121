"""Many conversations at once, a third of them cut, while slots are saved, restored, erased, pinned and looked at.

scripts/checks/server_load.py is the long form, and looks at memory too.
"""

import pytest
from slot_load import Broken, Load

BUDGET = ("--kv-budget", 128, "-np", 4, "--cache-ram", 1, "-c", 4 * 4096)


def test_no_answer_is_wrong_and_no_slot_is_lost(serve, tmp_path):
    done = Load(serve(*BUDGET, "--slot-save-path", tmp_path), n_requests=45).run()
    assert (done["answered"], done["cut"]) == (30, 15)
    assert done["evictions"] > 20 and done["reused"] > 1000 and done["slot actions"] > 10


def test_a_wrong_answer_ends_the_load(serve, tmp_path, monkeypatch):
    server = serve(*BUDGET, "--slot-save-path", tmp_path)
    complete = server.complete
    monkeypatch.setattr(server, "complete", lambda prompt, n, **more: complete(prompt, n=n - 1, **more))
    with pytest.raises(Broken, match="tokens after"):
        Load(server, n_requests=6).run()
