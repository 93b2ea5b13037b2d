"""What the page looks like: nothing is cut, hidden, alike or elsewhere when somebody reads it or aims at it."""

import signal

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, StartMeshlite

pytestmark = [pytest.mark.browser]
GONE = "Failed to load resource|ERR_"


@pytest.mark.parametrize("width", [1280, 360])
def test_whoever_looks_further_down_is_told_that_the_mesh_is_gone(
    meshlite: StartMeshlite, look: Open, width: int
) -> None:
    """The banner stays in the window and covers nothing that has the keyboard; all below it is dimmed."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE, width=width)
    card = page.get_by_label("Faults, services, traces")
    expect(card).to_have_css("opacity", "1")
    page.get_by_role("tab", name="Faults").focus()
    mesh.send(signal.SIGKILL)
    banner = page.locator(".banner", has_text="The mesh does not answer.")
    expect(banner).to_be_in_viewport(ratio=1)
    for each in page.locator("main > :not(.banner-place)").all():
        assert float(each.evaluate("(it) => getComputedStyle(it).opacity")) < 0.8
    covered = """(all) => all.reverse().filter((it) => {
      it.focus();
      const [mine, other] = [it, document.querySelector(".banner")].map((each) => each.getBoundingClientRect());
      return mine.height && mine.top < other.bottom && mine.bottom > other.top;
    }).map((it) => it.outerHTML)"""
    assert page.locator("main").locator("button, select, input, summary, [tabindex='0']").evaluate_all(covered) == []


NAME = "x" * 63  # the longest of a fault, and nowhere to break it


def test_a_long_name_is_broken(meshlite: StartMeshlite, look: Open) -> None:
    """On a phone, in every place that says what is on, what happened, and what a button does."""
    mesh = meshlite("edges.orders.inventory.breaker.reset_timeout=60")
    page = look(mesh, width=360)
    mesh.ask("PUT", f"/api/faults/{NAME}", {"service": "inventory", "kind": "delay", "seconds": 5, "enabled": True})
    mesh.ask("PUT", "/api/load", {"rate": 20, "seconds": 60})
    expect(page.get_by_text("Cause: inventory 5 s slow")).to_contain_text(NAME)
    page.get_by_role("button", name=f"Change {NAME}").click()
    expect(page.get_by_role("heading", name=f"Change {NAME}")).to_be_visible()
    wide = """() => [...document.querySelectorAll("main *, .command *")].filter((it) => {
      const { right, width } = it.getBoundingClientRect();
      return width > 1 && right > innerWidth && !it.closest(".tabs, .scroll, .what, svg");
    }).map((it) => it.outerHTML.slice(0, 200))"""
    for tab in ("Services and log", "Traces", "Faults"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(wide) == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") == 360, tab
    page.get_by_role("button", name=f"Remove {NAME}").focus()
    assert page.evaluate(wide) == []
