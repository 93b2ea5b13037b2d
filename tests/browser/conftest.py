"""A mesh in a process of its own, and a real browser in front of it that is watched: what it asks and complains of.

Run with `pytest -m browser`; needs the extra `dev` and a Chromium on the path.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

collect_ignore_glob = [] if find_spec("playwright") and find_spec("axe_playwright_python") else ["test_*.py"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("services.users", "services.orders", "services.inventory", "control")


class Meshlite:
    """`python -m meshlite`, on ports that stay the same when it is started again."""

    def __init__(self, folder: Path, *settings: str) -> None:
        with ExitStack() as sockets:
            free = [sockets.enter_context(socket.socket()) for _ in NAMES]
            for each in free:
                each.bind(("127.0.0.1", 0))
            ports = {name: each.getsockname()[1] for name, each in zip(NAMES, free, strict=True)}
        keys = [*(f"{name}.port={port}" for name, port in ports.items()), "mesh.data=:memory:", *settings]
        self.url = f"http://127.0.0.1:{ports['control']}"
        self._command = [sys.executable, "-m", "meshlite", *(part for key in keys for part in ("--set", key))]
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return when it says that it runs."""
        self._process = subprocess.Popen(
            self._command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ctrl-C" in line:
                return
        raise AssertionError(f"it ended: {self._process.wait()}")

    def stop(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.send_signal(signal.SIGTERM)
            self._process = None

    def send(self, number: int) -> None:
        """A signal to its process."""
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, method: str, path: str, body: object = None) -> None:
        """Have the control plane do something."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
        )
        urllib.request.urlopen(request, timeout=5).close()


class Watched:
    """A page, all that it asked for, and all that it complained of."""

    def __init__(self, page: "Page", origin: str) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._origin = origin
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def check(self) -> None:
        """It asked nobody but the control plane, and complained of nothing."""
        assert self.asked
        assert [url for url in self.asked if not url.startswith(self._origin + "/")] == []
        assert self.complaints == []


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


StartMeshlite = Callable[..., Meshlite]
Open = Callable[..., "Page"]


@pytest.fixture
def meshlite(stack: ExitStack, tmp_path: Path) -> StartMeshlite:
    """Start a mesh; what is given is set."""

    def start(*settings: str) -> Meshlite:
        mesh = Meshlite(tmp_path, *settings)
        stack.callback(mesh.stop)
        mesh.start()
        return mesh

    return start


@pytest.fixture
def look(browser: "Browser", stack: ExitStack) -> Open:
    """Open the page of a mesh; what it asks and complains of is looked at when the test is over.

    `forgiven` is a pattern of complaints that the test brings about itself.
    """

    def open_page(mesh: Meshlite, *, forgiven: str = "", width: int = 1280, height: int = 800, **more: str) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **more)  # type: ignore[arg-type]
        stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(15_000)
        watched = Watched(page, mesh.url)

        def end() -> None:
            if forgiven:
                watched.complaints = [text for text in watched.complaints if not re.search(forgiven, text)]
            watched.check()

        stack.callback(end)
        page.goto(mesh.url)
        return page

    return open_page


os.environ.setdefault("NODE_OPTIONS", "--no-deprecation")  # the driver's warnings are none of ours
