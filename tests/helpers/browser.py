"""Debian's chromium, driven by playwright: CAPKV_TEST_BROWSER names it; where it is named, a test does not skip without it."""

import contextlib
import os
import shutil

import pytest


def find_browser() -> str:
    """Path of the browser; skips the test where none is installed and none is named.

    Raises:
        FileNotFoundError: CAPKV_TEST_BROWSER names no program.
    """
    if named := os.environ.get("CAPKV_TEST_BROWSER"):
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"CAPKV_TEST_BROWSER = {named}: no such program")
        return named
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here (Debian: apt install chromium), and CAPKV_TEST_BROWSER names no other")
    return found


@contextlib.contextmanager
def open_browser():
    """A browser without a window, closed at the end. One at a time in a process: playwright's loop runs in this thread."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    with sync_playwright() as playwright:
        # as root, as in a container, chromium's sandbox does not start
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            yield browser
        finally:
            browser.close()
