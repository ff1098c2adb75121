"""The clipboard: of the desktop where there is a program for it, else of the terminal, which may be on another machine."""

import base64
import os
import shutil
import subprocess
import sys

#: (program and its arguments, environment variable that has to be set)
_PROGRAMS = (
    (("pbcopy",), None),
    (("clip.exe",), None),
    (("wl-copy",), "WAYLAND_DISPLAY"),
    (("xclip", "-selection", "clipboard"), "DISPLAY"),
    (("xsel", "--clipboard", "--input"), "DISPLAY"),
)


def osc52(text: str) -> str:
    """The sequence by which a terminal takes a text into its clipboard; one that does not know it ignores it."""
    return f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\a"


def copy(text: str) -> None:
    """Put a text into the clipboard."""
    if "SSH_TTY" not in os.environ:  # or the desktop is not the user's
        for command, variable in _PROGRAMS:
            if (variable is None or os.environ.get(variable)) and shutil.which(command[0]):
                done = subprocess.run(command, input=text.encode("utf-8", "replace"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                if done.returncode == 0:
                    return
    sys.stdout.write(osc52(text))
    sys.stdout.flush()
