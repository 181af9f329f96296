"""A browser, pages that tell what goes wrong in them, and apps that are served in this process."""

import importlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from krepes.app.server import create_app, listening
from krepes.app.state import State
from tests.app.runs import TOKEN, image_run, table_run

if os.environ.get("CI"):  # where nothing may be skipped
    for package in ("playwright.sync_api", "axe_playwright_python.sync_playwright"):
        importlib.import_module(package)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}


def browser_path() -> str | None:
    """Chromium: KREPES_CHROMIUM, or the first that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("KREPES_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; where there is none the tests are skipped, but not in continuous integration."""
    path = browser_path()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium was found; install Debian's chromium, or name it with KREPES_CHROMIUM")
        pytest.skip("no Chromium was found")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Watched:
    """A page and what went wrong in it.

    Attributes:
        page: Playwright's.
        folder: for files of this test.
        requests: addresses that it asked for, without data: and blob:.
        wrong: console errors, uncaught errors and violations of the Content-Security-Policy.
    """

    def __init__(self, browser, folder: Path, size: str = "desktop", dark: bool = False):
        self.folder = folder
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            reduced_motion="reduce", accept_downloads=True,
        )  # fmt: skip
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url) if r.url[:5] not in ("data:", "blob:") else None)
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('violates ' + e.violatedDirective))"
        )

    def screenshot(self, name: str, whole: bool = False) -> None:
        """Kept where KREPES_SCREENSHOTS says."""
        folder = os.environ.get("KREPES_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    def violations(self) -> list[str]:
        """Serious and critical findings of axe."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        found = axe.Axe().run(self.page).response["violations"]
        return [
            f"{v['id']} ({v['impact']}): {[n['html'][:120] for n in v['nodes']][:3]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]


@pytest.fixture
def watch(browser, tmp_path) -> Iterator:
    """Makes watched pages; they are closed afterwards."""
    made = []

    def make(**options) -> Watched:
        made.append(Watched(browser, tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.context.close()


class Served:
    """An app over a run folder on a free port.

    Attributes:
        link: the start link.
        state: the app's.
    """

    def __init__(self, folder: Path, compare: Path | None = None, live: bool = True):
        entry = listening(0)
        port = entry.getsockname()[1]
        self.state = State(folder, compare)
        if live:
            self.state.live.load()
        config = uvicorn.Config(create_app(self.state, TOKEN, port), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        threading.Thread(target=self._server.run, kwargs={"sockets": [entry]}, daemon=True).start()
        until = time.monotonic() + 20
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.02)
        self.address = f"http://127.0.0.1:{port}"
        self.link = f"{self.address}/?token={TOKEN}"

    def stop(self) -> None:
        """No more answers."""
        self._server.should_exit = True


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory):
    """A run of a table whose names hold markup."""
    return table_run(tmp_path_factory.mktemp("browser") / "table")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A run of images."""
    return image_run(tmp_path_factory.mktemp("browser") / "images")


@pytest.fixture(scope="session")
def table_app(table_folder):
    """The table's run, compared with itself."""
    served = Served(table_folder, table_folder)
    yield served
    served.stop()


@pytest.fixture(scope="session")
def image_app(image_folder):
    """The images' run."""
    served = Served(image_folder)
    yield served
    served.stop()
