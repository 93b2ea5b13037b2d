"""Draws `docs/dashboard.webp` and `docs/dashboard-dark.webp`: a slow inventory, the breaker open, why, and until when.

Needs the extra `dev` and a Chromium on the path. With a folder as its argument it puts a picture of each state there,
light and dark, wide and narrow.
"""

import base64
import shutil
import sys
from pathlib import Path

from harness import ROOT, folder, meshlite
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MOST = 150_000
"""Bytes of a picture in the documents."""
PACK = """async ([data, quality]) => {
  const image = new Image();
  image.src = "data:image/png;base64," + data;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/webp", quality).split(",")[1];
}"""


def pack(browser: Browser, picture: bytes) -> bytes:
    """A screenshot as WebP, as good as the room allows."""
    page = browser.new_page()
    for quality in (0.95, 0.9, 0.85, 0.8, 0.7):
        packed = base64.b64decode(page.evaluate(PACK, [base64.b64encode(picture).decode(), quality]))
        if len(packed) <= MOST:
            break
    page.close()
    return packed


def main(where: Path | None) -> None:
    with (
        folder() as data,
        meshlite(data, "log.level=error", ports=(8080, 8081, 8082, 8090)) as server,
        sync_playwright() as playwright,
    ):
        server.first_answer()
        url = "http://localhost:8090"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        pages: dict[str, Page] = {}
        for scheme in ("light", "dark"):
            for name, size in {"wide": WIDE, "narrow": NARROW}.items():
                if where is not None or name == "wide":
                    context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1.5)
                    pages[f"{scheme}-{name}"] = context.new_page()
        for page in pages.values():
            page.goto(url)

        def shoot(state: str, wait: float) -> None:
            first = next(iter(pages.values()))
            first.wait_for_timeout(wait * 1000)
            for name, page in pages.items() if where else ():
                (where / f"{state}-{name}.webp").write_bytes(pack(browser, page.screenshot()))

        def ask(method: str, path: str, body: str | None = None) -> None:
            server.ask("control", path, method, body)

        shoot("idle", 1)
        ask("PUT", "/api/load", '{"rate": 20, "seconds": 300}')
        shoot("healthy", 25)
        pages["light-wide"].get_by_role("button", name="Inventory 5 s slow").click()
        for page in pages.values():
            page.get_by_role("heading", name="The breaker orders → inventory is open.").wait_for()
        shoot("open", 1.5)
        for scheme, name in (("light", "dashboard.webp"), ("dark", "dashboard-dark.webp")):
            (ROOT / "docs" / name).write_bytes(pack(browser, pages[f"{scheme}-wide"].screenshot()))
        ask("POST", "/api/reset")
        shoot("healed", 8)
        ask("POST", "/api/services/users/kill")
        shoot("killed", 4)
        for tab in ("Faults", "Services and log", "Traces") if where else ():
            for page in pages.values():
                page.get_by_role("tab", name=tab).click()
                page.locator(".tabs").evaluate("element => element.scrollIntoView()")
            shoot(tab.split()[0].lower(), 1.5)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
