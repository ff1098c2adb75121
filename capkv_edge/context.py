"""Opening a context with a KV budget, in the one way in which llama.cpp takes one."""

from contextlib import contextmanager

import llama_cpp

from . import _log
from ._lib import last_error, load
from .config import CapkvConfig


@contextmanager
def next_budget(config: CapkvConfig):
    """The next context that this thread opens in the `with` block has the budget of `config`; none where `config` is off.

    The budget waits outside of llama.cpp's parameters, which have no room for it. Afterwards reason() and _log.cache_buffers()
    tell of what was opened in the block.

    Raises:
        KeyboardInterrupt: Ctrl-C came while llama.cpp was opening.
    """
    ffi, lib = load()
    _log.forget()
    lib.capkv_set_next_params(config.params)
    try:
        yield
        _log.raise_interrupt()
    finally:
        lib.capkv_set_next_params(ffi.NULL)


def reason() -> str:
    """Why no context could be opened: the message of capkv.h where it refused, else that of llama.cpp."""
    return _log.reason(last_error())


def open_context(model, config: CapkvConfig, *, n_threads: int = 1, **fields):
    """Open a context on a loaded model.

    Args:
        model: `llama_model *`, as llama_cpp has it.
        config: the budget; one that is off gives a context without a budget, whatever the environment says.
        n_threads: CPU threads for batches and for single tokens.
        fields: further fields of `llama_context_params`. With a budget, a type_k and type_v of f16, which are the default, are replaced
            by the type of `config`.

    Returns:
        The `llama_context *`, as llama_cpp has it; the caller frees it with llama_free().

    Raises:
        TypeError: there is no such field.
        ValueError: llama.cpp cannot open it; the message is the reason alone.
    """
    params = llama_cpp.llama_context_default_params()
    for name, value in dict(fields, n_threads=n_threads, n_threads_batch=n_threads).items():
        if not hasattr(params, name):
            raise TypeError(f"{name}: llama_context_params has no such field")
        setattr(params, name, value)
    ctx = None
    try:
        with next_budget(config):
            ctx = llama_cpp.llama_init_from_model(model, params)
    except KeyboardInterrupt:
        if ctx:
            llama_cpp.llama_free(ctx)
        raise
    if not ctx:
        raise ValueError(reason())
    return ctx
