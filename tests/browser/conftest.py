"""A page in a real browser, against the real server. Whatever it asks for elsewhere, and whatever
it complains of, fails the test that it happened in."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from wqkv.explorer import server
from wqkv.explorer.api import Api
from wqkv.study import one_token as story
from wqkv.study.model import OpenModel
from wqkv.study.pair import OpenPair
from wqkv.study.view import View

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: The link that stands out in this sentence: from "it" to "animal".
LAYER, HEAD, IT, ANIMAL = 3, 1, 10, 2
HERE = f"layer={LAYER}&head={HEAD}&token={IT}"
STATISTICS = ("entropy", "received", "distance", "sink", "label", "maps")
TIRED = "The animal didn't cross the street because it was too tired."


class Site(NamedTuple):
    """A server with one text, and the same text in Python."""

    url: str
    view: View


@contextmanager
def serving(
    model: OpenModel | OpenPair,
    text: str,
    view: View | None = None,
    target: str | None = None,
    pair: str | None = None,
    picture: str | None = None,
) -> Iterator[Site]:
    """A server on a free port, in a thread, until the test is over."""
    uvicorn = pytest.importorskip("uvicorn", reason="the explorer needs the extra `show`")
    if view is None:  # first: a model reads one text at a time
        view = View(model, model.read(text))
    listening = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    made = server.app(Api(model), "token", [host], text, target, pair=pair, picture=picture)
    running = uvicorn.Server(uvicorn.Config(made, log_level="warning", access_log=False))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Site(f"http://{host}/token/", view)
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def site(minilm) -> Iterator[Site]:
    with serving(minilm, TIRED) as made:
        yield made


@pytest.fixture(scope="module")
def told(site) -> story.TokenStory:
    return story.token_story(site.view, LAYER, HEAD, IT)


@pytest.fixture(scope="module")
def browser():
    """Chromium; on a machine without one these tests are skipped, in CI they fail."""
    if CHROMIUM is None and "CI" in os.environ:
        pytest.fail("there is no chromium: .ci/run installs it")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM)
        yield made
        made.close()


class Opener:
    """Opens pages and keeps what they complain of, or ask another place for, in `wrong`."""

    def __init__(self, browser, site: Site) -> None:
        self.browser, self.site = browser, site
        self.contexts: list = []
        self.wrong: list[str] = []
        self.shared = self.new()
        self.view = self.shared.url.partition("&v=")[2].partition("&")[0]

    def __call__(self, state: str = "", *, fresh: bool = False, **options):
        """A page at a state: open_page("step=4"). One serves all tests unless told otherwise.

        It shows the text unless the state names another view: the page itself opens on the cards.
        """
        if "view=" not in state and "url" not in options:  # a saved page has a start of its own
            state = f"{state}&view=text".removeprefix("&")
        if fresh or options:
            return self.new(state, **options)
        self.shared.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        go(self.shared, f"{state}&v={self.view}")
        return self.shared

    def new(self, state="", *, url=None, width=1200, height=900, offline=False, **options):
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, **{"locale": "en-GB", **options}
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: self._asked(request.url, url or self.site.url))
        page.on("pageerror", lambda error: self.wrong.append(f"raised {error}"))
        page.on("console", self._said)
        context.set_offline(offline)
        page.goto((url or self.site.url) + (f"#{state}" if state else ""))
        settled(page)
        return page

    def close(self, contexts) -> None:
        for context in contexts:
            context.close()
            self.contexts.remove(context)

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith((own, "blob:", "data:")):
            self.wrong.append(f"asked for {url}")

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)


@pytest.fixture(scope="module")
def opener(browser, site) -> Iterator[Opener]:
    made = Opener(browser, site)
    yield made
    made.close(list(made.contexts))


@pytest.fixture
def open_page(opener) -> Iterator[Opener]:
    """Opens the site; a test that provokes complaints looks at `open_page.wrong` and clears it."""
    before = list(opener.contexts)
    yield opener
    wrong, opener.wrong = opener.wrong, []
    opener.close([context for context in opener.contexts if context not in before])
    assert not wrong, "\n".join(wrong[:8])


def settled(page) -> None:
    """Waits until everything that was asked for is drawn."""
    page.locator("#view > *").first.wait_for()
    page.locator("[aria-busy]").first.wait_for(state="detached")


def go(page, state: str) -> None:
    """Follows a link to another state of the page."""
    page.evaluate(
        """state => new Promise(done => {
            if (location.hash === `#${state}`) return done();
            addEventListener("popstate", () => setTimeout(done), { once: true });
            location.hash = state;
        })""",
        state,
    )
    settled(page)


def table(part) -> list[list[str]]:
    """The texts of a table's rows, without empty cells."""
    rows = part.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return [[text for text in row if text] for row in rows]
