"""A window that chats over a long document: python examples/window.py [MODEL] [--file DOCUMENT] [--budget TOKENS]

A bar shows what the model still holds. One thread has the model, the other one the window: they tell each other what happens through
two queues, so the window never waits for the model.
"""

import argparse
import queue
import threading
import tkinter as tk
from pathlib import Path
from tkinter import filedialog, scrolledtext

from capkv_edge import Llama
from capkv_edge.chat.conversation import Conversation

PARTS = (("pinned", "#7b4fa3"), ("chosen", "#2f6db3"), ("recent", "#5fa8d8"))  # of the bar, from the left; the rest of it is free


class Stopped(Exception):
    """The user pressed Stop."""


class Model(threading.Thread):
    """Reads files and answers questions, one after the other; tells the window by `told`: (kind, text or figures)."""

    def __init__(self, path: str, **options):
        super().__init__(daemon=True)
        self.asked, self.told, self.stop = queue.Queue(), queue.Queue(), threading.Event()
        self._path, self._options = path, options

    def run(self) -> None:
        with Llama(self._path, verbose=False, **self._options) as llm:
            self.talk = Conversation(llm, system="You answer questions about the user's text.", temp=0.3, max_tokens=300, recall=200)
            self._tell_figures()
            while (job := self.asked.get()) is not None:
                self.stop.clear()
                try:
                    self._read(Path(job[1])) if job[0] == "read" else self._answer(job[1])
                except Stopped:
                    self.told.put(("note", "stopped"))
                except (OSError, ValueError) as error:
                    self.told.put(("note", str(error)))
                self._tell_figures()
                self.told.put(("ready", ""))

    def _tell_figures(self) -> None:
        now, pins = self.talk.stats(), self.talk.llm.pins
        n_pinned = sum(min(stop, now.n_tokens) - min(start, now.n_tokens) for start, stop in pins)  # some are ahead of the text
        n_recent = now.n_tokens - now.pos_tail - sum(max(0, stop - max(start, now.pos_tail)) for start, stop in pins)
        n_recent = max(0, min(n_recent, now.n_used - n_pinned))
        self.told.put(("figures", (now, {"pinned": n_pinned, "chosen": now.n_used - n_pinned - n_recent, "recent": n_recent})))

    def _on_progress(self, done: int, total: int) -> None:
        self._tell_figures()
        if self.stop.is_set():
            raise Stopped

    def _read(self, path: Path) -> None:
        n = self.talk.read(path.read_text(encoding="utf-8") + "\n", self._on_progress)
        self.told.put(("note", f"read {n:,} tokens of {path.name}"))

    def _answer(self, question: str) -> None:
        self.talk.ask(question, self._on_progress)
        for piece in self.talk.reply():
            self.told.put(("reply", piece))
            self._tell_figures()
            if self.stop.is_set():
                break


class Window:
    """What the user sees. It touches the model by its queues alone."""

    def __init__(self, model: Model):
        self.model, self.is_busy = model, False
        self.root = root = tk.Tk()
        root.title("capkv-edge")
        root.geometry("760x520")
        self.bar = tk.Canvas(root, height=18, background="#dddddd", highlightthickness=0)
        self.bar.pack(fill="x", padx=10, pady=(10, 2))
        self.figures = tk.Label(root, anchor="w", text="loading the model ...")
        self.figures.pack(fill="x", padx=10)
        row = tk.Frame(root)
        row.pack(side="bottom", fill="x", padx=10, pady=10)
        self.line = tk.Entry(row, font="TkTextFont")
        self.line.pack(side="left", fill="x", expand=True, ipady=4)
        self.button = tk.Button(row, text="Send", width=7, command=self.press)
        self.button.pack(side="left", padx=(6, 0))
        tk.Button(row, text="Read a file", command=lambda: self.read(filedialog.askopenfilename())).pack(side="left", padx=(6, 0))
        self.text = scrolledtext.ScrolledText(root, wrap="word", state="disabled", font="TkTextFont", padx=8, pady=8)
        self.text.pack(fill="both", expand=True, padx=10, pady=(6, 0))
        self.text.tag_configure("you", foreground="#7b4fa3", spacing1=8)
        self.text.tag_configure("note", foreground="#777777", spacing1=8)
        self.line.bind("<Return>", lambda event: None if self.is_busy else self.press())
        self.line.focus_set()
        model.start()
        self._look()

    def press(self) -> None:
        """The button: stop the reply, or send the line."""
        if self.is_busy:
            self.model.stop.set()
        elif self.line.get().strip():
            self.send(self.line.get())
            self.line.delete(0, "end")

    def send(self, question: str) -> None:
        """Ask the model."""
        self._show("you", f"{question}\n")
        self._give(("ask", question))

    def read(self, path: str) -> None:
        """Let the model read a file; "" is none, as when a dialog is left."""
        if path and not self.is_busy:
            self._show("note", f"reading {Path(path).name} ...\n")
            self._give(("read", path))

    def _give(self, job: tuple) -> None:
        self.is_busy = True
        self.button.config(text="Stop")
        self.model.asked.put(job)

    def _show(self, tag: str, words: str) -> None:
        self.text.config(state="normal")
        self.text.insert("end", words, tag)
        self.text.config(state="disabled")
        self.text.see("end")

    def _look(self) -> None:
        """Show what the model has told since, and look again in 30 milliseconds."""
        while not self.model.told.empty():
            kind, value = self.model.told.get()
            if kind == "figures":
                self._draw(*value)
            elif kind == "ready":
                self.is_busy = False
                self.button.config(text="Send")
                self._show("reply", "\n")
            else:
                self._show(kind, value + "\n" * (kind == "note"))
        self.root.after(30, self._look)

    def _draw(self, now, parts: dict) -> None:
        self.bar.delete("all")
        at, scale = 0.0, self.bar.winfo_width() / now.n_cells
        for name, colour in PARTS:
            self.bar.create_rectangle(at, 0, at := at + parts[name] * scale, 18, fill=colour, width=0)
        self.bar.create_line(now.config.budget * scale, 0, now.config.budget * scale, 18, fill="black", dash=(2, 2))
        shown = ", ".join(f"{n:,} {name}" for name, n in parts.items())
        self.figures.config(text=f"{now.n_tokens:,} tokens; each head holds {now.n_used:,} ({shown}); evicted {now.n_evicted:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--file", default="")
    parser.add_argument("--budget", type=int, default=1024)
    given = parser.parse_args()
    window = Window(Model(given.model, kv_budget=given.budget, n_batch=128))
    window.read(given.file)
    window.root.mainloop()


if __name__ == "__main__":
    main()
