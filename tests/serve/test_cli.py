"""capkv-serve at the command line: which llama-server it starts, and one line and status 2 for an error."""

import shlex
import sys

import pytest
from commands import runner

from capkv_edge.serve import cli, program


@pytest.fixture
def run(capfd):
    """Run capkv-serve: (status, stdout, stderr)."""
    return runner(cli.main, capfd)


@pytest.fixture
def command(run):
    """The words of the llama-server command that capkv-serve would run."""

    def command(*args):
        status, out, err = run("--dry-run", *args)
        assert (status, err) == (0, "")
        return shlex.split(out)

    return command


def value(words, option):
    return words[words.index(option) + 1]


def test_a_model_alone_is_served_to_this_machine_with_a_budget(command, tiny_llama):
    words = command(tiny_llama)
    assert words[0] == str(program.find()) and value(words, "-m") == str(tiny_llama)
    assert (value(words, "--host"), value(words, "--port")) == ("127.0.0.1", "8080")
    assert (value(words, "--kv-budget"), value(words, "-c"), value(words, "--keep")) == ("1024", "0", "-1")
    assert value(words, "--alias") == tiny_llama.stem
    assert value(words, "--cors-origins") == "localhost" and "--metrics" in words


def test_budget_auto_is_for_all_slots_and_shows_its_arithmetic(run, tiny_llama, monkeypatch):
    monkeypatch.setattr("capkv_edge.host_memory.available", lambda fallback=0: 1 << 33)
    status, out, err = run("--dry-run", tiny_llama, "--budget", "auto", "-np", 2)
    assert status == 0 and value(shlex.split(out), "--kv-budget") == "2048"  # beside a batch of 2048, in the trained length of 4096
    lines = err.splitlines()
    assert lines[0].startswith("capkv-serve: budget auto: 8.0 GiB free on CPU - ") and lines[2].startswith("capkv-serve: memory: ")
    assert "2,048 tokens take " in lines[1] and "(4,096 cells in q8_0 for each of 2 sequences)" in lines[1]
    status, out, err = run("--dry-run", tiny_llama, "--budget", "auto", "-np", 2, "-c", 2048)
    assert status == 0 and value(shlex.split(out), "--kv-budget") == "1024"


def test_options_reach_llama_server(command, tiny_llama, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    words = command(
        tiny_llama, "--budget", 512, "--policy", "streaming", "--untested", "--host", "0.0.0.0", "--port", 9000, "-np", 2, "-c", 8192,
        "--keep", 0, "--save-dir", tmp_path / "slots", "--alias", "mine", "-t", 2, "-ngl", -1, "--api-key-file", keys, "--no-page",
    )
    for option, expected in {
        "--kv-budget": "512", "--kv-policy": "streaming", "--host": "0.0.0.0", "--port": "9000", "-np": "2", "-c": "8192", "--keep": "0",
        "--slot-save-path": str(tmp_path / "slots"), "--alias": "mine", "-t": "2", "-ngl": "-1", "--api-key-file": str(keys),
    }.items():
        assert value(words, option) == expected
    assert "--kv-untested" in words and "--no-ui" in words and "--path" not in words
    assert (tmp_path / "slots").stat().st_mode & 0o777 == 0o700


def test_what_stands_after_two_dashes_goes_on_as_it_is(command, tiny_llama):
    words = command(tiny_llama, "--", "--cache-ram", 0, "--cors-origins", "https://a.example", "--", "-x")
    assert words[-6:] == ["--cache-ram", "0", "--cors-origins", "https://a.example", "--", "-x"]
    assert words.count("--cors-origins") == 1


def test_a_budget_of_the_environment_is_not_overruled(command, tiny_llama, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_KV_BUDGET", "300")
    assert "--kv-budget" not in command(tiny_llama)
    assert value(command(tiny_llama, "--budget", 64 + 64), "--kv-budget") == "128"


def test_the_key_is_not_seen_by_other_users(tiny_llama, monkeypatch, capfd):
    started = []
    monkeypatch.setattr(program, "start", lambda line, env: started.append((line, env)) or 0)
    assert cli.main([str(tiny_llama), "--api-key", "secret", "--host", "0.0.0.0"]) == 0
    (line, env), = started
    assert "secret" not in " ".join(line) and env["LLAMA_API_KEY"] == "secret"
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("a.sock", False), ("0.0.0.0", True), ("127.0.0.1,::", True)],
)
def test_an_address_that_others_reach_is_warned_of(tiny_llama, monkeypatch, capfd, host, warned):
    monkeypatch.setattr(program, "start", lambda line, env: 0)
    cli.main([str(tiny_llama), "--host", host])
    err = capfd.readouterr().err
    assert "4 slots with a budget of 1,024 tokens each" in err
    assert ("is reachable from other machines and needs no key" in err) == warned


WRONG = [
    ((), "MODEL.gguf is missing"),
    (("nowhere.gguf",), "no such model file: nowhere.gguf"),
    (("MODEL", "--budget", "x"), "kv_budget = x: allowed is 0 (off), a number of tokens"),
    (("MODEL", "--budget", "5"), "kv_budget = 5: allowed is 0 (off) or at least"),
    (("MODEL", "--policy", "none"), "kv_policy = none: allowed is one of capkv"),
    (("MODEL", "--port", "70000"), "--port = 70000: allowed is a whole number, 1 to 65535"),
    (("MODEL", "--port", "x"), "--port = x: allowed is a whole number, 1 to 65535"),
    (("MODEL", "-np", "0"), "--parallel = 0: allowed is a whole number, 1 to 256"),
    (("MODEL", "--ctx", "-1"), "--ctx = -1: allowed is a whole number, 0 to"),
    (("MODEL", "--keep", "-2"), "--keep = -2: allowed is a whole number, -1 to"),
    (("MODEL", "-t", "0"), "--threads = 0: allowed is a whole number, 1 to 512"),
    (("MODEL", "--api-key-file", "nowhere"), "No such file or directory: 'nowhere'"),
    (("MODEL", "--bugdet", "5"), "No such option: --bugdet"),
    (("MODEL", "more"), "unexpected extra argument(s) (more)"),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_an_error_is_one_line_and_starts_nothing(run, tiny_llama, args, words):
    status, out, err = run(*(tiny_llama if word == "MODEL" else word for word in args))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("capkv-serve: error: ") and words in err


def test_policies_are_listed(run):
    status, out, _ = run("--policy", "help")
    assert status == 0 and "streaming" in out


def test_help_has_every_option_of_the_table(run):
    from capkv_edge.config import options

    status, out, _ = run("--help")
    assert status == 0 and "-- --jinja" in out
    assert [f"--{name}" for name in options() if f"--{name}" not in out] == []


def test_a_package_without_the_program_says_how_to_get_it(run, tiny_llama, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "lib_dir", lambda: tmp_path / "lib")
    status, _, err = run(tiny_llama)
    assert status == 2 and f"no llama-server in {tmp_path / 'lib'}" in err and "-DCAPKV_SERVER=ON" in err
    monkeypatch.setenv("CAPKV_SERVER", sys.executable)
    assert program.find().samefile(sys.executable)
    monkeypatch.setenv("CAPKV_SERVER", "nowhere")
    assert "CAPKV_SERVER = nowhere: no such program" in run(tiny_llama)[2]


def test_the_package_has_the_program():
    from capkv_edge._lib import lib_dir

    assert program.find().parent == lib_dir()
