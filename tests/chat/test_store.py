"""The folder of conversations: names, files that only their owner may read, and what is there after a save that failed."""

import json
import os
import stat
import time

import pytest

from capkv_edge.chat import store
from capkv_edge.chat.store import Store, default_folder


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path / "chats")


def write(data):
    return lambda path: path.write_bytes(data)


def files(kept):
    return sorted(path.name for path in kept.folder.iterdir())


def test_a_conversation_is_there_again_and_its_session_with_it(kept):
    kept.save("first", {"n_tokens": 7, "text": "ä\udcff"}, write(b"state"))
    entry = kept.read("first")
    assert entry.record["n_tokens"] == 7 and entry.record["text"] == "ä?" and abs(entry.saved - time.time()) < 60
    assert kept.session(entry).read_bytes() == b"state"


def test_only_the_owner_may_look(kept):
    kept.save("first", {}, write(b"state"))
    assert stat.S_IMODE(os.stat(kept.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(kept.folder / "first.json").st_mode) == 0o600


def test_saving_again_leaves_one_session_and_saving_text_alone_keeps_it(kept):
    kept.save("first", {}, write(b"old"))
    kept.save("first", {}, write(b"new"))
    assert len(files(kept)) == 2 and kept.session(kept.read("first")).read_bytes() == b"new"
    kept.save("first", {"n_tokens": 9})
    assert len(files(kept)) == 2 and kept.session(kept.read("first")).read_bytes() == b"new"


def test_a_save_that_fails_leaves_the_conversation_as_it_was(kept, monkeypatch):
    kept.save("first", {"n_tokens": 1}, write(b"old"))
    before = files(kept)

    def full(*args):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        kept.save("first", {"n_tokens": 2}, full)
    monkeypatch.setattr(store.atomic, "write", full)
    with pytest.raises(OSError):
        kept.save("first", {"n_tokens": 2}, write(b"new"))
    assert files(kept) == before
    assert kept.read("first").record["n_tokens"] == 1 and kept.session(kept.read("first")).read_bytes() == b"old"


def test_names(kept):
    for name in ("first", "Ünder 2", "a.b-c_d"):
        assert kept.check_name(name) == name
    for name in ("", ".hidden", "a/b", "../up", "a" * 81, "end.", "end ", "-c", "a\nb"):
        with pytest.raises(ValueError, match="allowed are letters, digits"):
            kept.check_name(name)


def test_a_name_is_made_of_the_first_words_and_is_new(kept):
    assert kept.free_name("How is the *dangling* else problem solved in Python?") == "how-is-the-dangling-else-problem"
    kept.save("how-is-it", {})
    assert kept.free_name("How is it?") == "how-is-it-2"
    assert kept.free_name("?!") == "chat" and kept.free_name("日本語 です") == "日本語-です"
    kept.check_name(kept.free_name("x" * 500))


def test_the_last_saved_is_the_first_in_the_list(kept):
    for i, name in enumerate(("b", "a", "c")):
        kept.save(name, {})
        os.utime(kept.folder / f"{name}.json", (i, i))
    assert kept.names() == ["c", "a", "b"]
    assert Store(kept.folder / "none").names() == []


def test_deleting_and_renaming_take_the_session_along(kept):
    kept.save("first", {}, write(b"state"))
    kept.rename("first", "second")
    assert kept.names() == ["second"] and kept.session(kept.read("second")).read_bytes() == b"state"
    kept.delete("second")
    assert files(kept) == []
    with pytest.raises(ValueError, match="no conversation is called second; /list has"):
        kept.delete("second")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 9, "saved": 1}', "is damaged: the version of its format is 9, here it is 1"),
        ('{"format": 1}', "is damaged"),
        ("\0" * 10, "is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_can_be_deleted(kept, text, said):
    kept.save("first", {})
    (kept.folder / "first.json").write_text(text)
    with pytest.raises(ValueError, match=f"first.json {said}"):
        kept.read("first")
    kept.delete("first")
    assert kept.names() == []


def test_a_session_outside_of_the_folder_is_not_used(kept):
    kept.save("first", {})
    record = kept.read("first").record
    for name in ("../other.session", "/etc/passwd", 7):
        (kept.folder / "first.json").write_text(json.dumps({**record, "session": name}))
        with pytest.raises(ValueError, match="is damaged: its session is"):
            kept.session(kept.read("first"))


def test_sessions_of_killed_saves_go_after_a_while(kept):
    kept.save("first", {}, write(b"state"))
    for name, age in (("old", 7200), ("new", 0)):
        path = kept.folder / f"{name}.session"
        path.write_bytes(b"left")
        os.utime(path, (time.time() - age,) * 2)
    kept.sweep()
    assert "old.session" not in files(kept) and "new.session" in files(kept) and len(files(kept)) == 3


def test_the_folder_is_where_the_system_keeps_data(monkeypatch, tmp_path):
    monkeypatch.setattr(store.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "capkv" / "chats"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "share" / "capkv" / "chats"
    monkeypatch.setattr(store.sys, "platform", "darwin")
    assert default_folder() == tmp_path / "Library" / "Application Support" / "capkv" / "chats"
