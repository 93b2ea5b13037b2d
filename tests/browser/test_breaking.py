"""Breaking something by a click or by the form: each does what it says, and says what it does."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Meshlite, Open, StartMeshlite

pytestmark = [pytest.mark.browser]
GONE = "Failed to load resource|ERR_"
SLOW = {"service": "inventory", "kind": "delay", "seconds": 5}


def would(page: Page, name: str) -> Any:
    """The command line, once it says what this button would do."""
    button = page.get_by_role("button", name=name)
    page.mouse.move(0, 0)
    button.hover()
    return page.get_by_role("contentinfo").locator("code")


def test_a_crash_sends_traffic_along(meshlite: StartMeshlite, look: Open) -> None:
    """Where nobody asks anything: else nobody would notice."""
    page = look(meshlite())
    page.get_by_role("button", name="Inventory crashes").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("traffic is sent along")
    expect(dialog).to_contain_text("/api/load")
    expect(dialog).to_contain_text("All its data is lost, for it is in memory")
    dialog.get_by_role("button", name="Kill inventory").click()
    expect(page.get_by_role("heading", name="The breaker orders → inventory is open.")).to_be_visible()


def test_traffic_that_was_stopped_is_no_traffic(meshlite: StartMeshlite, look: Open) -> None:
    """A preset right after it sends its own, although the rates of ten seconds still tell of it."""
    page = look(meshlite())
    page.get_by_role("button", name="Send traffic").click()
    expect(page.get_by_role("heading", name="All is well.")).to_be_visible()
    expect(would(page, "Inventory fails")).not_to_contain_text("/api/load")
    page.get_by_role("button", name="Stop traffic").click()
    page.get_by_role("button", name="Send traffic").wait_for()
    expect(page.get_by_role("button", name=re.compile("^users, running, [1-9]"))).to_be_visible()
    expect(would(page, "Inventory fails")).to_contain_text("/api/load")


def test_whoever_has_traffic_gets_none_of_ours(meshlite: StartMeshlite, look: Open) -> None:
    """Requests that came in these last seconds are somebody's, if no traffic of ours has ended just then."""
    page = look(meshlite())
    expect(page.locator("[data-edge]")).to_have_count(3)
    asked = """async ([ago, ended]) => {
      const [{ audience }, { state, meshTime }] = await Promise.all([import("/page/top.js"), import("/page/store.js")]);
      Object.assign(state, { asked: meshTime() - ago, trafficEnded: meshTime() - ended });
      return audience().length;
    }"""
    cases = {"asked just now": ((1, 60), 0), "no more": ((4, 60), 1), "by us": ((1, 2), 1), "after us": ((0.5, 4), 0)}
    for name, (given, sent) in cases.items():
        assert page.evaluate(asked, given) == sent, name


def replaced(mesh: Meshlite, **rule: Any) -> None:
    mesh.ask("PUT", "/api/faults/slow-inventory", {**SLOW, **rule})


@pytest.mark.parametrize("other", [{"seconds": 0.1}, {"caller": "external"}, {"kind": "hang", "seconds": None}])
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_a_preset_is_what_its_label_says(meshlite: StartMeshlite, look: Open, other: dict[str, Any], on: bool) -> None:
    """Another fault of its name, on or off, is not it: a click puts its own in that one's place."""
    mesh = meshlite()
    replaced(mesh, **other, enabled=on)
    page = look(mesh)
    preset = page.get_by_role("button", name="Inventory 5 s slow")
    row = page.locator(".faults li").filter(has_text="slow-inventory")
    expect(row).to_contain_text("struck 0 of 0" if on else "off")
    expect(preset).to_have_attribute("aria-pressed", "false")
    preset.click()
    expect(preset).to_have_attribute("aria-pressed", "true")
    expect(row).to_contain_text(re.compile("slow-inventory inventory 5 s slow *on"))


def test_a_mesh_that_goes_is_no_crash(meshlite: StartMeshlite, look: Open) -> None:
    """While it drains or is gone, no click starts inventory; a service that was killed is another thing."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE)
    crash = page.get_by_role("button", name="Inventory crashes")
    mesh.ask("POST", "/api/services/inventory/kill")
    expect(crash).to_contain_text("stopped Click to start it.")
    told = """async (patch) => {
      const { set, state } = await import("/page/store.js");
      set({ overview: { ...state.overview, ...patch } });
      await new Promise((done) => setTimeout(done));
      return [...document.querySelectorAll(".preset")].at(-1).textContent;
    }"""
    assert "Click" in page.evaluate(told, {})
    assert "Click" not in page.evaluate(told, {"state": "draining"})
    mesh.stop()
    expect(page.get_by_text("The mesh does not answer.")).to_be_visible()
    expect(crash).not_to_contain_text("Click")


def test_the_form_says_what_it_replaces(meshlite: StartMeshlite, look: Open) -> None:
    """A fault whose name is given already would be gone; the button says so as well."""
    page = look(meshlite())
    form = page.locator(".fault-form")
    expect(form).not_to_contain_text("it is replaced")
    form.get_by_label("Name").fill("slow-inventory")
    expect(form).to_contain_text("There is a fault of this name: it is replaced.")
    expect(form.get_by_role("button", name="Replace it, and switch it on")).to_be_visible()
    form.get_by_label("Name").fill("slow-inventory-2")
    expect(form.get_by_role("button", name="Make it, and switch it on")).to_be_visible()


def test_what_was_wrong_goes_when_it_is_mended(meshlite: StartMeshlite, look: Open) -> None:
    """An error goes as its field is typed in, and what was unfolded stays so; another kind takes all errors along."""
    page = look(meshlite(), forgiven=GONE)
    form = page.locator(".fault-form")
    form.get_by_text("Which requests").click()
    form.get_by_label("Route").fill("a" * 2000)
    form.get_by_role("button", name="Make it").click()
    expect(form.get_by_role("alert")).to_have_count(1)
    form.get_by_label("Route").fill("/orders*")
    expect(form.get_by_role("alert")).to_have_count(0)
    expect(form.get_by_label("Route")).to_be_visible()
    form.get_by_label("Distribution").select_option("pareto")
    form.get_by_role("button", name="Make it").click()
    expect(form.get_by_role("alert")).to_have_count(1)
    form.get_by_label("What it does").select_option("block")
    form.get_by_label("What it does").select_option("delay")
    expect(form.get_by_role("alert")).to_have_count(0)


def test_a_choice_says_what_holds_where_none_is_made(meshlite: StartMeshlite, look: Open) -> None:
    """Any caller, a uniform distribution, before the work; of a throttle after it."""
    page = look(meshlite())
    form = page.locator(".fault-form")
    form.get_by_text("Which requests").click()
    chosen = "(select) => select.selectedOptions[0].text"
    for label, text in {"Caller": "any", "Distribution": "uniform", "When": "request"}.items():
        assert form.get_by_label(label).evaluate(chosen) == text
    form.get_by_label("What it does").select_option("throttle")
    assert form.get_by_label("When").evaluate(chosen) == "response"
    form.get_by_label("What it does").select_option("delay")
    form.get_by_role("button", name="Make it").focus()
    expect(page.get_by_role("contentinfo")).to_contain_text(
        """{"service":"inventory","kind":"delay","enabled":true,"seconds":5,"duration":60}"""
    )
