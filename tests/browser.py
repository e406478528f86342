"""The browser that tests and pictures of pages use."""

import contextlib
import shutil

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

in_a_browser = pytest.mark.skipif(
    not BROWSER, reason="no chromium, chromium-browser or google-chrome on the PATH"
)


@contextlib.contextmanager
def opened(address, width=1400, height=1000):
    """A page of a browser that shows an address, and the list of all that it asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page, asked = browser.new_page(viewport={"width": width, "height": height}), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page, asked
        browser.close()
