"""The dashboard's files as they are served; what they do in a browser is in tests/browser."""

import gzip
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
from yarl import URL

from meshlite.control.page import FOLDER, NAMES
from tests.conftest import StartMesh, World

THEIRS = {"preact.js", "uplot.js", "uplot.css"}
OURS = sorted(name for name in NAMES if name not in THEIRS and not name.endswith(".txt"))
NAMED_ONLY = {"http://www.w3.org", "https://html.spec.whatwg.org"}
"""A namespace, and what a comment refers to: nobody asks there."""
ROOM = 100_000
"""Bytes that the first load may take over the wire."""


async def test_each_file_is_what_it_says_it_is(world: World) -> None:
    """Its type, nothing guessed; asked about again each time. A document: our scripts only, no frame, no referrer."""
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in ("/", *(f"/page/{name}" for name in NAMES)):
        answer = await world.get("control", path)
        assert answer.status == 200
        assert answer.body == (FOLDER / (path.removeprefix("/page/") if path != "/" else "index.html")).read_bytes()
        suffix = ".html" if path == "/" else Path(path).suffix
        assert answer.headers["Content-Type"].startswith(types.get(suffix, "text/plain"))
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        policies = [answer.headers.get(name) for name in ("Content-Security-Policy", "Referrer-Policy")]
        assert policies == (
            ["default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", "no-referrer"]
            if suffix in (".html", ".svg")
            else [None, None]
        )


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("", False), ("identity", False), ("gzip;q=0", False), ("br", False)],
)
async def test_it_is_packed_for_those_who_take_that(world: World, accepted: str, packed: bool) -> None:
    """And a cache in between is told that there are two."""
    answer = await world.get("control", "/page/main.js", headers={"Accept-Encoding": accepted})
    assert (answer.headers.get("Content-Encoding") == "gzip") is packed
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.body == (FOLDER / "main.js").read_bytes()  # the client unpacks


async def test_who_has_it_gets_no_body(world: World) -> None:
    """304 for the tag that it was sent with, the file for any other."""
    first = await world.get("control", "/page/style.css")
    again = await world.get("control", "/page/style.css", headers={"If-None-Match": f'"x", W/{first.headers["ETag"]}'})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    other = await world.get("control", "/page/style.css", headers={"If-None-Match": '"x"'})
    assert (other.status, other.body) == (200, first.body)
    head = await world.ask("HEAD", "control", "/")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["none.js", "page.py", "..", "../page.py", "%2e%2e/page.py", "..%2fpage.py", "main.js%00", "MAIN.JS", ""],
)
async def test_nothing_else_is_a_file(world: World, path: str) -> None:
    """Whatever it looks like, it is 404."""
    async with world.client.get(URL(f"{world.url('control')}/page/{path}", encoded=True)) as response:
        assert response.status == 404


async def test_it_is_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request after the first touches the disk."""
    await world.get("control", "/")
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))
    assert (await world.get("control", "/page/map.js")).status == 200


async def test_a_read_that_fails_is_tried_again(world: World) -> None:
    """No dashboard is lost for good because there was no file left to be opened just then."""
    with pytest.MonkeyPatch.context() as patch:

        def fail(_: Path) -> bytes:
            raise OSError("too many open files")

        patch.setattr(Path, "read_bytes", fail)
        assert (await world.get("control", "/")).status == 500
    assert (await world.get("control", "/")).status == 200


async def test_it_needs_no_token_and_shows_nothing(start_mesh: StartMesh) -> None:
    """The files are in the package, the same for all; what is in the mesh is asked for with the token."""
    world = await start_mesh("control.token=s3cret-token")
    for name in NAMES:
        answer = await world.get("control", f"/page/{name}")
        assert (answer.status, b"s3cret" in answer.body) == (200, False)
    assert (await world.get("control", "/api/overview")).status == 401


def test_the_first_load_is_small() -> None:
    """All that a page loads, packed and with room for headers, is under the limit."""
    sizes = {name: len(gzip.compress((FOLDER / name).read_bytes(), 9)) + 500 for name in NAMES if name[-4:] != ".txt"}
    assert sum(sizes.values()) < ROOM, sizes


def test_nobody_else_is_asked() -> None:
    """There is no URL of another host in our files, and every module and file that is named is there."""
    for name in OURS:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[\w.-]+", text)) <= NAMED_ONLY, name
        assert set(re.findall(r'from "\./([\w.-]+)"', text)) <= NAMES
        assert set(re.findall(r"/page/([\w.-]+)", text)) <= NAMES


def test_every_module_is_asked_for_at_once() -> None:
    """The page names each module, so that none waits until another one has come."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    modules = {name for name in NAMES if name.endswith(".js")} - {"uplot.js"}  # that one comes with the first chart
    assert set(re.findall(r'(?:src|href)="/page/([\w]+\.js)"', page)) == modules


def test_nothing_is_inline() -> None:
    """The policy would forbid it: no script, no style, no handler in the page."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)


def test_what_is_not_ours_has_its_licence() -> None:
    """Beside it, and in the wheel's metadata."""
    for project in ("htm", "preact", "uplot"):
        assert "Copyright" in (FOLDER / f"{project}.LICENSE.txt").read_text()
    assert metadata("meshlite")["License-Expression"] == "MIT"
    listed = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"src/meshlite/control/dashboard/*.LICENSE.txt"' in listed


async def test_a_page_is_shown_whatever_is_behind_its_address(world: World) -> None:
    """A bookmark, or a link that somebody's mail has marked."""
    assert (await world.get("control", "/?utm_source=mail&x")).status == 200
