"""Which models there are, as a table, and choosing one of them in a terminal."""

from ..models import header, local
from ..units import size

_NO_MODELS = (
    "no models in {folder} nor in the hub's cache: put GGUF files there (--models or {env} name another folder), "
    "or download one: capkv-chat hf.co/OWNER/REPO:Q4_K_M"
)


def no_models(folder=None) -> str:
    """What to do when there are none."""
    return _NO_MODELS.format(folder=local.folder(folder), env=local.FOLDER_ENV)


def table(models: list) -> list:
    """A line of each model, below a line of titles: what to type for it, its size, trained length and architecture."""
    rows = [("MODEL", "SIZE", "CONTEXT", "ARCHITECTURE"), *map(_row, models)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows]


def _row(model: local.Model) -> tuple:
    try:
        found, fault = header.read(model.path), "not a model that llama.cpp can read"
    except OSError as err:
        found, fault = None, err.strerror or "cannot be read"
    if found is None:
        return model.name, size(model.n_bytes), "", fault
    length = f"{found.n_ctx_train:,}" if found.n_ctx_train else ""
    return model.name, size(model.n_bytes), length, f"{found.arch} {found.size_label}".strip()


def pick(models: list) -> str | None:
    """Let the user choose in the terminal: arrow keys, or a number, and Enter; returns what to type for the model, None for none."""
    from prompt_toolkit.application import Application
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.layout import HSplit, Layout, Window
    from prompt_toolkit.layout.controls import FormattedTextControl
    from prompt_toolkit.layout.dimension import Dimension

    title, *lines = table(models)
    at = 0
    keys = KeyBindings()

    @keys.add("up")
    @keys.add("k")
    def _(event):
        nonlocal at
        at = max(at - 1, 0)

    @keys.add("down")
    @keys.add("j")
    def _(event):
        nonlocal at
        at = min(at + 1, len(lines) - 1)

    @keys.add("home")
    @keys.add("pageup")
    def _(event):
        nonlocal at
        at = 0

    @keys.add("end")
    @keys.add("pagedown")
    def _(event):
        nonlocal at
        at = len(lines) - 1

    @keys.add("<any>")
    def _(event):
        nonlocal at
        if event.data.isdecimal() and 1 <= int(event.data) <= min(len(lines), 9):
            at = int(event.data) - 1

    @keys.add("enter")
    def _(event):
        event.app.exit(result=models[at].name)

    @keys.add("c-c")
    @keys.add("c-d")
    @keys.add("q")
    @keys.add("escape", eager=True)
    def _(event):
        event.app.exit(result=None)

    def shown():
        numbers = [f"{i + 1}" if i < 9 else " " for i in range(len(lines))]
        marked = [("reverse" if i == at else "", f" {number} {line} \n") for i, (number, line) in enumerate(zip(numbers, lines))]
        # the screen scrolls to the cursor
        marked.insert(at, ("[SetCursorPosition]", ""))
        return marked

    heights = Dimension(min=1, max=len(lines), preferred=len(lines))
    window = Window(FormattedTextControl(shown, focusable=True, show_cursor=False), height=heights, wrap_lines=False)
    help_line = Window(FormattedTextControl([("bold", f"   {title}")]), height=1)
    keys_line = Window(FormattedTextControl([("italic", " arrow keys or a number, Enter to chat, q to leave")]), height=1)
    layout = Layout(HSplit([help_line, window, keys_line]), focused_element=window)
    return Application(layout=layout, key_bindings=keys, erase_when_done=True).run()
