"""The window, on a screen that nobody sees."""

import gc
import re
import time

import pytest
from display import virtual_screen
from examples_under_test import load_example

pytest.importorskip("tkinter")
window_module = load_example("window")

TEXT = "The lighthouse keeper is called Marta. Her cat is called Ossian and sleeps on the stove. " * 12


@pytest.fixture(scope="module")
def window(demo_model):
    """One window for all tests: Tk ends the process if another thread than its own frees what is left of one."""
    with virtual_screen():
        window = window_module.Window(window_module.Model(str(demo_model), kv_budget=128, n_batch=32, n_threads=1, n_threads_batch=1))
        yield window
        window.model.stop.set()
        window.model.asked.put(None)
        window.model.join()
        window.root.destroy()
        window.__dict__.clear()
        gc.collect()


def pump(window, condition, timeout=240):
    """Run the window until the condition holds; returns the longest time in seconds for which it did not look at events."""
    end, longest = time.monotonic() + timeout, 0.0
    while not condition():
        assert time.monotonic() < end
        before = time.thread_time()  # its own work: a busy machine may take the processor away
        window.root.update()
        longest = max(longest, time.thread_time() - before)
        time.sleep(0.005)
    return longest


def shown(window):
    return window.text.get("1.0", "end")


def test_it_reads_answers_and_stays_responsive(window, tmp_path):
    pump(window, lambda: "evicted" in window.figures["text"])
    assert window.figures["text"].endswith("(0 pinned, 0 chosen, 0 recent); evicted 0") and len(window.bar.find_all()) == 4
    file = tmp_path / "keeper.txt"
    file.write_text(TEXT)
    window.read(str(file))
    assert window.is_busy and window.button["text"] == "Stop"
    longest = pump(window, lambda: not window.is_busy)
    assert "tokens of keeper.txt" in shown(window) and not window.figures["text"].endswith("evicted 0")
    n_held, *parts = (int(found) for found in re.findall(r"(\d+)(?= pinned| chosen| recent| \()", window.figures["text"]))
    assert n_held == sum(parts) <= 160 and all(parts)

    window.line.insert(0, "What is the cat called?")
    window.press()
    longest = max(longest, pump(window, lambda: not window.is_busy))
    _, question, reply = shown(window).rpartition("What is the cat called?")
    assert question and reply.strip(), "what a small model answers differs from processor to processor; that it answers does not"
    assert longest < 0.2, "the window waits for the model"


def test_the_button_stops_a_reply(window):
    window.send("Count from one to a thousand.")
    n_before = len(shown(window))
    pump(window, lambda: len(shown(window)) > n_before)
    window.press()
    pump(window, lambda: not window.is_busy)
    assert window.button["text"] == "Send" and len(shown(window)) < n_before + 400


def test_a_file_that_cannot_be_read(window):
    window.read("gone.txt")
    pump(window, lambda: not window.is_busy)
    assert "No such file or directory: 'gone.txt'" in shown(window)
