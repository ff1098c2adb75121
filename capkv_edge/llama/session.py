"""Sessions: the state of a Llama in a file, from which another process can go on.

A session appears at its path whole or not at all, and only its owner may read it. All of it is verified before any part reaches
the native library.

    magic (8 bytes), version and size of the header (2 x uint32), header (JSON), token ids (int32), native state,
    BLAKE2b-256 of all of that; little-endian
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import atomic, models
from ..config import type_name
from ..turns import changes_text
from . import saved_state
from .parts import Parts

MAGIC = b"\x93CAPKV\r\n"
VERSION = 1
_START = struct.Struct("<8sII")
_N_DIGEST = 32
_MAX_HEADER = 1 << 16

# what observed queries depend on; other options may differ. The native state refuses the same three, but only once the Llama is empty:
# checked here too, a session that does not fit changes nothing
_SAME_KV = ("policy", "sink", "seed")
_TYPES = ("type_k", "type_v")
_SAME_CONTEXT = (
    *("rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor"),
    *("yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx"),
)


class Sessions(Parts):
    """Mixed into Llama; needs what saved_state.take() and saved_state.put() need, `model_path` and `kv_config`."""

    @changes_text
    def save_session(self, path: str | os.PathLike[str]) -> None:
        """Write all that is needed to go on from here to a file, atomically, with mode 0600.

        A save that fails leaves nothing behind, and leaves an older session at that path as it was.

        Raises:
            OSError: the file cannot be written; names the path and the reason.
            RuntimeError: llama.cpp could not write its state.
        """
        path = os.path.realpath(os.fsdecode(path))  # a symbolic link is kept: its target is replaced
        state = saved_state.take(self)
        header = {**_describe(self), "n_tokens": int(self.n_tokens), "n_state": len(state), "seed": int(self._sampling_seed)}
        text = json.dumps(header).encode()
        tokens = np.ascontiguousarray(self.input_ids[: self.n_tokens], dtype="<i4")
        parts = (_START.pack(MAGIC, VERSION, len(text)) + text, memoryview(tokens.data).cast("B"), state)
        try:
            atomic.write(path, _with_digest(parts))
        except OSError as err:
            raise OSError(err.errno, err.strerror, path) from None

    @changes_text
    def load_session(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that save_session() wrote with the same model.

        The policy, sink, seed, cache types and RoPE options must be the same; the budget and n_ctx may differ.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no session, is damaged, or is of another model, version or configuration; names the path and
                the reason. The Llama is as it was before. Only if the native library refuses the state, it is empty; it can be
                used in both cases.
        """
        path = os.fsdecode(path)
        try:
            header, tokens, state = _parse(_read(path))
            _check(header, _describe(self), self)
            saved_state.put(self, state, tokens, header["seed"])
        except ValueError as err:
            raise ValueError(f"cannot load the session {path}: {err}") from None


# --- the header: which model and options a session belongs to ---


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a session says of its model, options and size, once the whole file was verified.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no session or is damaged; names the path and the reason.
    """
    path = os.fsdecode(path)
    try:
        return _parse(_read(path))[0]
    except ValueError as err:
        raise ValueError(f"cannot read the session {path}: {err}") from None


def keywords(header: dict[str, Any]) -> dict[str, Any]:
    """Keywords of Llama() for a context that the session of this header fits into."""
    options = {} if header["kv"] is None else {f"kv_{name}": value for name, value in header["kv"].items()}
    return {**options, **header["context"]}


def _describe(llm: Any) -> dict[str, Any]:
    if getattr(llm, "_fingerprint", None) is None:
        adapter = [models.fingerprint(llm.lora_path), llm.lora_scale] if llm.lora_path else []
        llm._fingerprint = [models.fingerprint(llm.model_path), *adapter]
    config = llm.kv_config
    return {
        "model": llm._fingerprint,
        "name": os.path.basename(llm.model_path),
        "kv": config and config.as_dict(),
        "context": {name: getattr(llm.context_params, name) for name in (*_TYPES, *_SAME_CONTEXT)},
        "n_used": llm.kv_stats().n_used if config else int(llm.n_tokens),
    }


def _check(theirs: dict[str, Any], ours: dict[str, Any], llm: Any) -> None:
    if theirs["model"] != ours["model"]:
        raise ValueError(f"it is of another model ({theirs['name']}, here it is {ours['name']})")
    if (theirs["kv"] is None) != (ours["kv"] is None):
        raise ValueError(f"it was saved {'without' if ours['kv'] else 'with'} a KV budget")
    _check_types(*([side["context"].get(name) for name in _TYPES] for side in (theirs, ours)))
    pairs = [(name, theirs["context"].get(name), ours["context"][name]) for name in _SAME_CONTEXT]
    if ours["kv"]:
        pairs += [(f"kv_{name}", theirs["kv"].get(name), ours["kv"][name]) for name in _SAME_KV]
    for name, their, our in pairs:
        if their != our:
            raise ValueError(f"its {name} is {their}, here it is {our}")
    n_cells = llm.kv_stats().n_cells if ours["kv"] else llm.n_ctx()
    if theirs["n_used"] > n_cells:
        raise ValueError(f"it needs {theirs['n_used']} cells, here there are {n_cells}")


def _check_types(their: list[int], our: list[int]) -> None:
    if their != our:
        (k, v), (here_k, here_v) = map(type_name, their), map(type_name, our)
        raise ValueError(
            f"its K and V are {k} and {v}, here they are {here_k} and {here_v}: --cache-type-k {k} --cache-type-v {v} "
            f"of capkv-chat (type_k={their[0]}, type_v={their[1]} in Python) reads it"
        )


# --- bytes ---


def _read(path: str) -> bytearray:
    with open(path, "rb") as file:
        start = file.read(_START.size)
        if not start.startswith(MAGIC[: len(start)]) or not start:
            raise ValueError("it is no session")
        if len(start) < _START.size:
            raise ValueError(f"it is cut off after {len(start)} bytes")
        _, version, _ = _START.unpack(start)
        if version != VERSION:
            raise ValueError(f"the version of its format is {version}, here it is {VERSION}")
        data = bytearray(os.fstat(file.fileno()).st_size)
        file.seek(0)
        n = file.readinto(data)
    if n != len(data):
        raise ValueError(f"it changed while it was read ({n} of {len(data)} bytes)")
    return data


def _parse(data: bytearray) -> tuple[dict[str, Any], Any, memoryview]:
    """Header, token ids and native state, after the checksum was verified."""
    n_header = _START.unpack_from(data)[2]
    at = _START.size + n_header
    header: Any = None
    n_all: Any = None
    if n_header <= _MAX_HEADER:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            header = json.loads(bytes(data[_START.size : at]))
            n_all = at + 4 * header["n_tokens"] + header["n_state"] + _N_DIGEST
    view = memoryview(data)
    if isinstance(n_all, int) and n_all > len(data):
        raise ValueError(f"it is damaged or cut off: {len(data)} of {n_all} bytes")
    if hashlib.blake2b(view[:-_N_DIGEST], digest_size=_N_DIGEST).digest() != view[-_N_DIGEST:] or n_all != len(data):
        raise ValueError("it is damaged: its checksum does not match")
    n_tokens = header["n_tokens"]
    return header, np.frombuffer(data, "<i4", n_tokens, at), view[at + 4 * n_tokens : -_N_DIGEST]


def _with_digest(parts: tuple[Any, ...]) -> Iterator[Any]:
    digest = hashlib.blake2b(digest_size=_N_DIGEST)
    for part in parts:
        digest.update(part)
        yield part
    yield digest.digest()
