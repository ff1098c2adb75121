"""From what the user types to an open model: which one, where its file is, what memory it will take, how its author samples it."""

from .. import models
from ..config import is_auto
from ..llama import memory
from ..llama.llama import Llama
from ..models import hub
from ..models.sampling import sampling
from . import picker

MISSING = "MODEL.gguf is missing: give a GGUF file, hf.co/OWNER/REPO:QUANT or 'demo'; --list lists what is here, --help the options"


def choose(model: str | None, hub_name: str | None, folder: str | None, is_terminal: bool) -> str | None:
    """What to open: the MODEL of the command line, that of --hf, or in a terminal what the user picks; None if they pick nothing.

    Raises:
        ValueError: there is none, or both; the message says what to do.
    """
    if hub_name is not None:
        if model is not None:
            raise ValueError(f"--hf = {hub_name}: a MODEL is given already, {model}")
        return hub_name if hub.is_name(hub_name) else hub.PREFIX + hub_name
    if model is not None:
        return model
    if not is_terminal:
        raise ValueError(MISSING)
    found = models.found(folder)
    if not found:
        raise ValueError(picker.no_models(folder))
    return picker.pick(found)


def open_model(name: str, folder: str | None, keywords: dict, say) -> tuple:
    """(a Llama, {keyword of Llama.generate(): value} that the model's author asks for).

    Args:
        name: as models.resolve() takes it.
        folder: of models, or None.
        keywords: of Llama().
        say: takes a line for the user: what is downloaded, what memory will be taken before it is, what sampling the model asks for.

    Raises:
        memory.DoesNotFitError: a device has too little memory; nothing was loaded.
        else as models.resolve() and Llama().
    """
    path = models.resolve(name, folder, say)
    models.check_file(path)
    if is_auto(keywords.get("kv_budget")):
        fit = memory.fit_budget(path, **keywords)
        for line in fit.lines():
            say(line)
        keywords, found = keywords | {"kv_budget": fit.budget}, fit.memory
    else:
        found = memory.measure(path, **keywords)
    found.check()
    say(found.line())
    for remark in found.remarks():
        say(f"note: {remark}")
    llm = Llama(path, **keywords)
    asked = sampling(llm.metadata)
    if asked.values:
        say("sampling, as the model asks for: " + ", ".join(f"{key} {value:g}" for key, value in asked.values.items()))
    if asked.unused:
        say(f"note: the model asks for more, which is left out: {', '.join(asked.unused)}")
    return llm, asked.values
