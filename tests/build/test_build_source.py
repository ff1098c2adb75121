"""cmake/llama_source.py, cmake/patch_series.py, scripts/dev/export_patches.py: source, patches and proof, on a tiny tree."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import llama_source
import patch_series
import pytest
from scripts_under_test import load_script

ROOT = Path(__file__).resolve().parents[2]

export_patches = load_script("dev/export_patches.py")

LINES = [f"int line_{i};" for i in range(1, 21)]
SOURCE = "\n".join(LINES) + "\n"
PATCH = """core: call the hook

Reason: a test.

diff --git a/src/core.cpp b/src/core.cpp
--- a/src/core.cpp
+++ b/src/core.cpp
@@ -3,6 +3,7 @@ int line_2;
 int line_3;
 int line_4;
 int line_5;
+hook();
 int line_6;
 int line_7;
 int line_8;
--\x20
2.39
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with one patch, a llama.cpp tree beside it, and a cache folder."""
    tree = tmp_path / "llama.cpp"
    for path, text in {"include/llama.h": "// api\n", "src/core.cpp": SOURCE, "src/other.cpp": "int other;\n", "docs/big.md": "x"}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "series").write_text("core-hooks.patch\n")
    (patches / "core-hooks.patch").write_text(PATCH)
    pin = tmp_path / "LLAMA_CPP_VERSION"
    pin.write_text("package=llama_cpp_python\nversion=1.2.3\nsha256=" + "0" * 64 + "\n")
    monkeypatch.setattr(llama_source, "PIN_FILE", pin)
    monkeypatch.setattr(llama_source, "PATCHES", patches)
    monkeypatch.setattr(export_patches, "PATCHES", patches)
    for function in (patch_series.series, patch_series.load_series):
        monkeypatch.setattr(function, "__defaults__", (patches,))
    monkeypatch.setenv("CAPKV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def prepare(project):
    return llama_source.prepare(project / "build" / "llama.cpp", project / "llama.cpp")


def make_sdist(project, folder):
    """Pack the tree as the package index would serve it; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llama_cpp_python-1.2.3.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(project / "llama.cpp", "llama_cpp_python-1.2.3/vendor/llama.cpp")
        dangling = tarfile.TarInfo("llama_cpp_python-1.2.3/vendor/llama.cpp/.git")
        dangling.size = 4
        tar.addfile(dangling, io.BytesIO(b"gone"))
    return path


def set_pin(project, path):
    digest = llama_source.sha256(path)
    (project / "LLAMA_CPP_VERSION").write_text(f"package=llama_cpp_python\nversion=1.2.3\nsha256={digest}\n")


def test_hooks_are_added_and_the_source_stays_as_it_is(project):
    said = prepare(project)
    built = project / "build" / "llama.cpp"
    assert (built / "src/core.cpp").read_text() == SOURCE.replace("int line_6;", "hook();\nint line_6;")
    assert (project / "llama.cpp/src/core.cpp").read_text() == SOURCE
    assert not (built / "docs").exists()
    assert said.endswith("1 patches, 1 hook lines in 1 files")


def test_only_files_that_change_are_rewritten(project):
    prepare(project)
    built = project / "build" / "llama.cpp" / "src"
    for name in ("core.cpp", "other.cpp"):
        os.utime(built / name, (1, 1))
    prepare(project)
    assert built.joinpath("core.cpp").stat().st_mtime == 1
    (project / "patches/core-hooks.patch").write_text(PATCH.replace("hook();", "other_hook();"))
    prepare(project)
    assert "other_hook();" in built.joinpath("core.cpp").read_text()
    assert built.joinpath("core.cpp").stat().st_mtime > 1
    assert built.joinpath("other.cpp").stat().st_mtime == 1


def test_edits_by_hand_are_never_overwritten(project):
    prepare(project)
    edited = project / "build/llama.cpp/src/core.cpp"
    edited.write_text(edited.read_text() + "// mine\n")
    assert prepare(project).endswith("edited by hand: src/core.cpp")
    (project / "patches/core-hooks.patch").write_text(PATCH.replace("hook();", "other_hook();"))
    with pytest.raises(llama_source.SourceError, match=r"src/core.cpp in .* was edited by hand(.|\n)*export_patches.py"):
        prepare(project)
    assert edited.read_text().endswith("// mine\n")


def test_a_hunk_that_moved_is_found_and_one_that_does_not_fit_is_refused(project):
    core = project / "llama.cpp/src/core.cpp"
    core.write_text("// new\n// lines\n" + SOURCE)
    prepare(project)
    assert "int line_5;\nhook();\nint line_6;" in (project / "build/llama.cpp/src/core.cpp").read_text()

    for text in (SOURCE.replace("line_5", "renamed"), "// new\n" + SOURCE + SOURCE):  # gone; there twice
        core.write_text(text)
        with pytest.raises(llama_source.SourceError) as error:
            prepare(project)
        for word in ("patches/core-hooks.patch", "src/core.cpp", "LLAMA_CPP_VERSION", "scripts/dev/export_patches.py build/edit"):
            assert word in str(error.value)


def test_unpack_shows_each_hunk_that_is_left_out_and_where_it_may_belong(project, monkeypatch, capsys):
    core = project / "llama.cpp/src/core.cpp"
    core.write_text("// new\n" * 5 + SOURCE.replace("line_5;", "renamed;"))
    args = ["--source", project / "llama.cpp"]
    assert main(monkeypatch, "unpack", project / "build/edit", *args) == 0
    said = capsys.readouterr()
    assert "hunks left out: 1." in said.out and f"export_patches.py {project}/build/edit" in said.out
    hunk = "patches/core-hooks.patch: src/core.cpp: @@ -3,6 +3,7 @@ int line_2;\n"
    lines = ["   int line_3;", "   int line_4;", "  ?int line_5;", "  +hook();", "   int line_6;", "   int line_7;", "   int line_8;"]
    assert said.err == f"left out: {hunk}  perhaps at line 8:\n" + "\n".join(lines) + "\n\n"
    core.write_text("// new\n" * 5 + SOURCE.replace("line_3;", "renamed;"))
    assert main(monkeypatch, "unpack", project / "build/near", *args) == 0
    said = capsys.readouterr()
    assert said.err == f"put in by two lines of context, look at it: {hunk}" and "hunks left out: 0." in said.out
    assert "int line_5;\nhook();\nint line_6;" in (project / "build/near/src/core.cpp").read_text()
    with pytest.raises(llama_source.SourceError, match="does not fit"):  # a build takes no such chance
        llama_source.prepare(project / "build/near", project / "llama.cpp")
    core.unlink()
    assert main(monkeypatch, "unpack", project / "build/gone", *args) == 0
    assert capsys.readouterr().err == f"left out: {hunk}  there is no such file in this release:\n  +hook();\n\n"


def test_of_places_that_are_alike_the_one_in_the_function_is_named():
    hunk = patch_series.parse("x.patch", PATCH).files["src/core.cpp"][0]
    hunk.header = "@@ -3,6 +3,7 @@ void second("
    body = ["int line_3;", "int line_4;", "int line_6;", "}"]
    lines = ["void first() {", *body, *[""] * 40, "void second() {", *body]
    assert patch_series.nearest_place(lines, hunk) == lines.index("void second() {") + 1


def test_a_patch_that_removes_a_line_is_refused(project):
    (project / "patches/core-hooks.patch").write_text(PATCH.replace(" int line_5;", "-int line_5;"))
    with pytest.raises(patch_series.PatchError, match="'-int line_5;'.*removes none"):
        prepare(project)


def test_the_proof_sees_a_missing_and_a_foreign_line():
    patches = [patch_series.parse("core-hooks.patch", PATCH)]
    good = SOURCE.replace("int line_6;", "hook();\nint line_6;")

    def missing(after):
        return patch_series.missing_hooks(patches, "src/core.cpp", SOURCE.encode(), after.encode())

    assert missing(good) == []
    assert missing(SOURCE) == ["hook();"]
    assert missing(good + "extra();\n") == ["extra();"]
    assert missing(good.replace("int line_9;\n", "")) == ["int line_9;"]


def test_export_writes_the_same_patch_and_takes_in_edits(project):
    path = make_sdist(project, project / "cache")
    set_pin(project, path)
    prepare(project)
    built = project / "build" / "llama.cpp"
    export_patches.export(built, [], None)
    assert (project / "patches/core-hooks.patch").read_text() == PATCH.partition("-- \n")[0]

    (built / "src/other.cpp").write_text("int other;\nother_hook();\n")
    with pytest.raises(patch_series.PatchError, match="--new NAME.patch"):
        export_patches.export(built, [], None)
    export_patches.export(built, [], "other-hooks.patch")
    assert patch_series.series(project / "patches") == ["core-hooks.patch", "other-hooks.patch"]
    assert "+other_hook();" in (project / "patches/other-hooks.patch").read_text()
    (built / "src/other.cpp").write_text("other_hook();\n")
    with pytest.raises(patch_series.PatchError, match="'int other;', was changed or removed"):
        export_patches.export(built, [], None)


def test_export_loses_no_hook_that_was_left_out(project):
    (project / "llama.cpp/src/core.cpp").write_text(SOURCE.replace("int line_5;", "int renamed;"))
    set_pin(project, make_sdist(project, project / "cache"))
    built = project / "build" / "llama.cpp"
    llama_source.prepare(built, None, keep_going=True)
    for only in ([], ["core-hooks.patch"]):
        with pytest.raises(patch_series.PatchError, match=r"core-hooks.patch has hooks for src/core.cpp(.|\n)*\| hook\(\);(.|\n)*--drop"):
            export_patches.export(built, only, None)
    assert (project / "patches/core-hooks.patch").read_text() == PATCH

    core = built / "src/core.cpp"
    core.write_text(core.read_text().replace("int line_6;", "hook(1);\nint line_6;"))  # put back, and edited
    export_patches.export(built, [], None)
    assert "+hook(1);" in (project / "patches/core-hooks.patch").read_text()
    core.write_text(core.read_text().replace("hook(1);\n", "").replace("int line_9;", "hook(2);\nint line_9;"))
    export_patches.export(built, [], None)
    assert "+hook(2);\n int line_9;" in (project / "patches/core-hooks.patch").read_text()


def test_export_drops_hooks_when_told_to(project):
    two = PATCH.replace("-3,6 +3,7", "-3,6 +3,8").replace("+hook();", "+hook();\n+second();")
    (project / "patches/core-hooks.patch").write_text(two)
    set_pin(project, make_sdist(project, project / "cache"))
    prepare(project)
    core = project / "build/llama.cpp/src/core.cpp"
    core.write_text(core.read_text().replace("second();\n", ""))
    with pytest.raises(patch_series.PatchError, match=r"\| second\(\);"):
        export_patches.export(project / "build/llama.cpp", [], None)
    export_patches.export(project / "build/llama.cpp", [], None, drop=True)
    assert "second" not in (project / "patches/core-hooks.patch").read_text()


def test_moving_the_pin_writes_the_version_and_its_hash(project, monkeypatch, capsys):
    served = make_sdist(project, project / "served")
    new = served.with_name("llama_cpp_python-1.3.0.tar.gz")
    served.rename(new)
    monkeypatch.setattr(llama_source, "download", lambda pin, folder: (folder / new.name).write_bytes(new.read_bytes()))
    (project / "cache").mkdir()
    (project / "cache" / new.name).write_bytes(b"damaged")
    assert main(monkeypatch, "pin", "1.3.0") == 0
    said = capsys.readouterr().out
    assert "llama-cpp-python==1.3.0" in said and "llama_source.py unpack build/edit" in said
    assert llama_source.read_pin() == {"package": "llama_cpp_python", "version": "1.3.0", "sha256": llama_source.sha256(new)}
    assert llama_source.get_sdist().read_bytes() == new.read_bytes()

    def fail(pin, folder):
        raise llama_source.SourceError("no route to host")

    monkeypatch.setattr(llama_source, "download", fail)
    assert main(monkeypatch, "pin", "1.4.0") == 1
    assert "no route to host" in capsys.readouterr().err and llama_source.read_pin()["version"] == "1.3.0"


def test_a_cached_source_distribution_is_used_and_a_damaged_one_fetched_again(project, monkeypatch):
    path = make_sdist(project, project / "served")
    set_pin(project, path)
    fetched = []

    def download(pin, folder):
        fetched.append(pin["version"])
        (folder / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(llama_source, "download", download)
    assert llama_source.get_sdist() == llama_source.get_sdist() == project / "cache" / path.name
    assert fetched == ["1.2.3"]
    (project / "cache" / path.name).write_bytes(b"damaged")
    llama_source.get_sdist()
    assert fetched == ["1.2.3"] * 2
    assert sorted(llama_source.read_files(None)) == ["include/llama.h", "src/core.cpp", "src/other.cpp"]


def test_a_wrong_hash_is_refused_and_not_kept(project, monkeypatch):
    monkeypatch.setattr(llama_source, "download", lambda pin, folder: (folder / "llama_cpp_python-1.2.3.tar.gz").write_bytes(b"other"))
    with pytest.raises(llama_source.SourceError, match=r"wrong hash(.|\n)*expected 0000(.|\n)*LLAMA_CPP_VERSION(.|\n)*pin 1.2.3"):
        llama_source.get_sdist()
    assert list((project / "cache").iterdir()) == []


def test_a_failed_download_says_what_to_do(project, monkeypatch):
    def run(command, **kwargs):
        assert command[-1] == "llama-cpp-python==1.2.3"
        return subprocess.CompletedProcess(command, 1, stdout="ERROR: no route to host\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(llama_source.SourceError) as error:
        llama_source.get_sdist()
    for word in ("no route to host", "CAPKV_CACHE_DIR", str(project / "cache"), "LLAMA_CPP_DIR"):
        assert word in str(error.value)


def test_a_folder_without_llama_cpp_is_refused(project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llama_source.py", "prepare", str(project / "build/x"), "--source", str(project / "patches")])
    assert llama_source.main() == 1
    said = capsys.readouterr().err
    assert "LLAMA_CPP_DIR" in said and str(project / "patches") in said and "Traceback" not in said


def main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["llama_source.py", *map(str, args)])
    return llama_source.main()


def test_build_only_patches_are_in_a_tree_without_hooks_too(project, monkeypatch, capsys):
    fix = PATCH.replace("Reason: a test.", "Reason: build-only. A test.").replace("src/core.cpp", "src/other.cpp")
    (project / "llama.cpp/src/other.cpp").write_text(SOURCE)
    (project / "patches/other-fix.patch").write_text(fix.replace("hook();", "fix();"))
    (project / "patches/series").write_text("core-hooks.patch\nother-fix.patch\n")
    assert [patch.is_build_only for patch in patch_series.load_series()] == [False, True]

    assert main(monkeypatch, "prepare", project / "build/plain", "--source", project / "llama.cpp", "--no-hooks") == 0
    assert capsys.readouterr().out.endswith("1 patches, 1 hook lines in 1 files\n")
    assert (project / "build/plain/src/core.cpp").read_text() == SOURCE
    assert (project / "build/plain/src/other.cpp").read_text() == SOURCE.replace("int line_6;", "fix();\nint line_6;")


def test_a_source_that_is_patched_already_is_called_that(project, monkeypatch, capsys):
    prepare(project)
    for given in ([], ["--no-hooks"]):
        args = ["prepare", project / "build/again", "--source", project / "build/llama.cpp", *given]
        assert main(monkeypatch, *args) == 1
        said = capsys.readouterr().err
        assert f"LLAMA_CPP_DIR is '{project}/build/llama.cpp', which is patched already" in said
        assert "src/core.cpp" in said and "core-hooks.patch" in said and "LLAMA_CPP_VERSION" not in said
        assert not (project / "build/again").exists()


@pytest.mark.parametrize("text", ["", '{"key": "', "[]", '{"files": 1}', "\x00"])
def test_a_damaged_stamp_is_made_anew_where_nothing_can_be_lost(project, text):
    said = prepare(project)
    stamp = project / "build/llama.cpp.json"
    good = stamp.read_text()
    stamp.write_text(text)
    assert prepare(project) == said and stamp.read_text() == good

    edited = project / "build/llama.cpp/src/core.cpp"
    edited.write_text(edited.read_text() + "// mine\n")
    stamp.write_text(text)
    with pytest.raises(llama_source.SourceError, match=r"llama.cpp.json is damaged(.|\n)*src/core.cpp(.|\n)*rm -r .*llama.cpp.json"):
        prepare(project)
    assert edited.read_text().endswith("// mine\n")


def test_a_folder_that_cannot_be_written_is_one_line(project, monkeypatch, capsys):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(llama_source, "write_file", refuse)  # whoever runs this may be allowed to write everywhere
        assert main(patch, "prepare", project / "build/x", "--source", project / "llama.cpp") == 1
    assert capsys.readouterr().err == (
        f"capkv: {project}/build/x/include/llama.h: Permission denied\n"
        f"The patched source goes to {project}/build/x: build in a folder that can be written.\n"
    )
    (project / "file").write_text("")
    assert main(monkeypatch, "prepare", project / "file/x", "--source", project / "llama.cpp") == 1
    assert f"capkv: {project}/file/x" in capsys.readouterr().err
