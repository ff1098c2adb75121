"""Models of the hub, through its client, from a stand-in on this machine: what is asked, cut downloads, checksums, errors."""

import pytest
from hub_stand_in import COMMIT, Hub, serve
from huggingface_hub import constants

from capkv_edge import models
from capkv_edge.models import hub

DATA = bytes(range(256)) * 4096  # 1 MiB
OTHER = b"GGUF" + bytes(1000)
SPLIT = {f"Tiny-F16-0000{i}-of-00002.gguf": bytes([i]) * 500 for i in (1, 2)}


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A Hub that the client asks, and an empty cache."""
    found = Hub("maker/Tiny-GGUF", {"README.md": b"hello", "Tiny-Q4_K_M.gguf": DATA, "Tiny-Q8_0.gguf": OTHER, **SPLIT})
    with serve(found) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        found.address = address
        yield found


def fetch(name):
    said = []
    return models.resolve(name, say=said.append), said


def test_a_model_is_downloaded_once(stand_in):
    path, said = fetch("hf.co/maker/Tiny-GGUF:Q8_0")
    assert path.read_bytes() == OTHER and path.name == "Tiny-Q8_0.gguf" and COMMIT in path.parts
    assert said == ["downloading Tiny-Q8_0.gguf of hf.co/maker/Tiny-GGUF, 1004 B"]
    n = len(stand_in.requests)
    assert fetch("hf.co/maker/Tiny-GGUF:q8_0") == (path, []) and len(stand_in.requests) == n
    assert [name for name, _ in stand_in.downloads()] == ["Tiny-Q8_0.gguf"]


@pytest.mark.parametrize(
    "name, file",
    [
        ("hf.co/maker/Tiny-GGUF", "Tiny-Q4_K_M.gguf"),
        ("hf.co/maker/Tiny-GGUF:Tiny-Q8_0.gguf", "Tiny-Q8_0.gguf"),
        ("hf.co/maker/Tiny-GGUF/Tiny-Q8_0.gguf", "Tiny-Q8_0.gguf"),
        ("{address}/maker/Tiny-GGUF", "Tiny-Q4_K_M.gguf"),
        ("{address}/maker/Tiny-GGUF/blob/main/Tiny-Q8_0.gguf", "Tiny-Q8_0.gguf"),
        ("hf.co/maker/Tiny-GGUF:F16", "Tiny-F16-00001-of-00002.gguf"),
    ],
)
def test_ways_to_name_a_model(stand_in, name, file):
    assert fetch(name.format(address=stand_in.address))[0].name == file


def test_all_parts_of_a_split_model_come(stand_in):
    path, said = fetch("hf.co/maker/Tiny-GGUF:F16")
    assert [p.read_bytes() for p in sorted(path.parent.glob("*F16*"))] == list(SPLIT.values()) and len(said) == 2


def test_a_cut_download_goes_on_where_it_ended(stand_in, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    stand_in.n_cut = 300_000

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt  # the user gives up while the client waits to try again

    monkeypatch.setattr("time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")
    stand_in.n_cut = None
    path, said = fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")
    assert path.read_bytes() == DATA
    assert said == ["downloading Tiny-Q4_K_M.gguf of hf.co/maker/Tiny-GGUF, 1.0 MiB, of which 29% are here"]
    assert stand_in.downloads() == [("Tiny-Q4_K_M.gguf", None), ("Tiny-Q4_K_M.gguf", "bytes=300000-")]


def test_a_damaged_file_is_refused_and_removed(stand_in):
    stand_in.damaged.add("Tiny-Q4_K_M.gguf")
    with pytest.raises(OSError, match="Tiny-Q4_K_M.gguf was damaged on its way, and is removed: its SHA-256 is 30e1.*, the hub's "):
        fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")
    assert [path for path in hub.cache().rglob("*") if path.is_file() and path.stat().st_size == len(DATA)] == []
    stand_in.damaged.clear()
    assert fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")[0].read_bytes() == DATA


def test_what_is_too_large_for_the_disk_is_not_begun(stand_in, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**19}))
    with pytest.raises(OSError, match=r"hf.co/maker/Tiny-GGUF:Q4_K_M takes 1.0 MiB, and 512.0 KiB are free in .*cache"):
        fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")
    assert stand_in.downloads() == []


@pytest.mark.parametrize(
    "status, kind, message",
    [
        ((401, "RepoNotFound"), FileNotFoundError, "has no such repository, or a private one: `hf auth login`"),
        ((403, "GatedRepo"), PermissionError, "its owner asks for consent first"),
        ((500, None), ConnectionError, "http://127.0.0.1.* does not answer as it should: .*500"),
    ],
)
def test_what_the_hub_refuses(stand_in, status, kind, message):
    stand_in.status = status
    with pytest.raises(kind, match=message) as err:
        fetch("hf.co/maker/Tiny-GGUF:Q4_K_M")
    assert "\n" not in str(err.value) and str(err.value).startswith("hf.co/maker/Tiny-GGUF:Q4_K_M: ")


def test_a_quantization_that_is_not_there(stand_in):
    with pytest.raises(FileNotFoundError, match="hf.co/maker/Tiny-GGUF has no Q2_K, but F16, Q4_K_M, Q8_0"):
        fetch("hf.co/maker/Tiny-GGUF:Q2_K")


def test_without_a_network_the_cache_is_enough(stand_in, monkeypatch):
    path, _ = fetch("hf.co/maker/Tiny-GGUF")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf.co/maker/Tiny-GGUF") == (path, [])
    with pytest.raises(ConnectionError, match="hf.co/maker/Tiny-GGUF:Q8_0: http://127.0.0.1:9 does not answer as it should"):
        fetch("hf.co/maker/Tiny-GGUF:Q8_0")


@pytest.mark.parametrize("name", ["hf.co/maker", "hf.co/maker/a b", "hf.co//x", "hf.co/a/b/c", "hf.co/a/b/c.gguf:Q4_0"])
def test_names_that_are_none(stand_in, name):
    with pytest.raises(ValueError, match="a model on the hub is named hf.co/OWNER/REPO:QUANT"):
        fetch(name)


def test_models_come_from_the_hub_alone(stand_in):
    with pytest.raises(ValueError, match="models are downloaded from http://127.0.0.1:.* alone .HF_ENDPOINT."):
        fetch("https://example.org/maker/Tiny-GGUF")
