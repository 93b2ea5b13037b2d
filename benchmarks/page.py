"""The dashboard: how soon it is there, what it weighs, and what it costs the mesh that somebody looks at it.

Needs the extra `dev`, a Chromium on the path, and `wrk`. What is open in the second part is no browser, which would
want the machine for itself; it does what an open page does: read the events, ask for the overview once a second.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from harness import USER, folder, meshlite, wrk
from playwright.sync_api import Browser, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LOADS, ROUNDS, SECONDS, CONNECTIONS = 9, 6, 4, 16
WATCH = """new MutationObserver((_, observer) => {
  if (!document.querySelector("[data-edge]")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.drawn = performance.now(); }));
}).observe(document, { subtree: true, childList: true });"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def load(browser: Browser, url: str) -> tuple[float, float, int]:
    """Milliseconds to the first paint and to the map, and bytes over the wire, of a browser that has nothing cached."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.add_init_script(WATCH)
    page.goto(url)
    drawn = page.wait_for_function("() => window.drawn").json_value()
    paint = page.evaluate(PAINT)
    page.wait_for_timeout(1000)  # what comes later, the charts and their past, is weighed too
    context.close()
    return paint, drawn, sum(sizes)


async def _read(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def events() -> None:
            async with session.get(url + "/api/events", timeout=aiohttp.ClientTimeout(total=None)) as stream:
                async for _ in stream.content.iter_any():
                    pass

        reading = asyncio.create_task(events())
        while not reading.done():
            async with session.get(url + "/api/overview") as answer:
                await answer.read()
            await asyncio.sleep(1)


async def _readers(url: str, count: int) -> None:
    await asyncio.gather(*(_read(url) for _ in range(count)))


@contextmanager
def readers(url: str, count: int) -> Iterator[None]:
    """So many pages open, in a process of their own."""
    process = subprocess.Popen([sys.executable, __file__, "readers", url, str(count)]) if count else None
    time.sleep(0.5)
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    with folder() as where, meshlite(where, "log.level=error") as server:
        server.first_answer()
        url = f"http://127.0.0.1:{server.ports['control']}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            load(browser, url)
            loads = [load(browser, url) for _ in range(LOADS)]
            browser.close()
        found: dict[int, list[float]] = {0: [], 1: [], 10: []}
        spent: dict[int, list[float]] = {count: [] for count in found}
        wrk(server.url("users", USER), CONNECTIONS, 2)
        for turn in range(ROUNDS):
            counts = list(found)
            for count in counts[turn % 3 :] + counts[: turn % 3]:
                with readers(url, count):
                    before = server.cpu()["loop"]
                    rate = wrk(server.url("users", USER), CONNECTIONS, SECONDS).a_second
                    found[count].append(rate)
                    spent[count].append((server.cpu()["loop"] - before) / (rate * SECONDS) * 1e6)
    paint, drawn, sizes = (statistics.median(values) for values in zip(*loads, strict=True))
    print(f"first paint {paint:.0f} ms, the map {drawn:.0f} ms, {sizes / 1000:.1f} KB over the wire; of {LOADS} loads")
    for count, values in found.items():
        ratio = statistics.median(rate / none for rate, none in zip(values, found[0], strict=True))
        cpu = statistics.median(spent[count])
        print(
            f"{count:2} pages open: {statistics.median(values):,.0f} answers a second, {ratio:.3f} of none "
            f"({min(values):,.0f} to {max(values):,.0f}), {cpu:.1f} µs of the loop each"
        )
    print(json.dumps({"paint_ms": paint, "map_ms": drawn, "bytes": sizes, "rates": found, "cpu_us": spent}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["readers"]:
        asyncio.run(_readers(sys.argv[2], int(sys.argv[3])))
    else:
        main()
