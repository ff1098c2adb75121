"""README says what the native tables say."""

from pathlib import Path

from capkv_edge import _lib

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_options_are_those_of_the_table():
    ffi, lib = _lib.load()
    for i in range(lib.capkv_n_options()):
        opt = lib.capkv_get_option(i)
        name, default, text, allowed = (ffi.string(s).decode() for s in (opt.name, opt.default_value, opt.help, opt.range))
        assert f"| `{name}` | {default} | {text} | {allowed} |" in README


def test_the_policies_are_those_of_the_table():
    ffi, lib = _lib.load()
    for i in range(lib.capkv_n_policies()):
        policy = lib.capkv_get_policy(i)
        assert f"| `{ffi.string(policy.name).decode()}` | {ffi.string(policy.help).decode()} |" in README
