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


# As if every edge were in this state: where that is drawn, if no news has come meanwhile.
SHOWN = """async ([shown, mode]) => {
  const { set, state } = await import("/page/store.js");
  const why = { open: "3 consecutive failures, last: no answer after 0.25 s", half_open: "the open time is over" };
  const breaker = { key: "edge", state: shown, reason: why[shown] ?? `set to ${mode} by hand`, age: 83, open_time: 30,
    retry_after: 12.4, probes: 0, probe_successes: 0, consecutive_failures: 0, failure_rate: null };
  const drawn = (edge) => ({ ...edge, mode, breakers: [{ ...edge.breakers[0], ...breaker }] });
  for (;;) {
    const overview = { ...state.overview, edges: state.overview.edges.map(drawn) };
    set({ overview, chosen: { edge: "orders→inventory", by: "person" } });
    await new Promise((done) => setTimeout(done, 30));
    if (state.overview !== overview) continue;
    const rect = (name) => document.querySelector(name)?.getBoundingClientRect().toJSON();
    const [hero, controls, ring, until] = [".hero", ".controls", ".countdown", ".until"].map(rect);
    return { word: document.querySelector(".hero .word").textContent, hero, controls, ring, until };
  }
}"""


@pytest.mark.parametrize("width", [1440, 1280, 1041, 768, 360])
def test_a_button_that_is_aimed_at_stays(meshlite: StartMeshlite, look: Open, width: int) -> None:
    """What the breaker is, and how much there is to be said of it, moves none of the buttons below."""
    page = look(meshlite(), width=width)
    expect(page.locator("[data-edge]")).to_have_count(3)
    states = [("closed", "auto"), ("open", "auto"), ("half_open", "auto"), ("forced_open", "forced_open")]
    found = [page.evaluate(SHOWN, state) for state in [*states, ("disabled", "disabled")]]
    assert [each["word"] for each in found] == ["closed", "open", "half-open", "forced open", "disabled"]
    assert len({each["controls"]["y"] - each["hero"]["y"] for each in found}) == 1, found


def test_the_countdown_is_in_its_box(meshlite: StartMeshlite, look: Open) -> None:
    """On a phone, with what it counts down to in a line."""
    page = look(meshlite(), width=360)
    expect(page.locator("[data-edge]")).to_have_count(3)
    found = page.evaluate(SHOWN, ("open", "auto"))
    hero, ring, until = (found[name] for name in ("hero", "ring", "until"))
    assert ring["right"] <= hero["right"] - 12
    assert ring["bottom"] < hero["bottom"]
    assert until["right"] <= hero["right"] - 12
    assert until["height"] < 20
    assert until["right"] <= ring["left"] or until["bottom"] <= ring["top"]


RATIO = """([a, b]) => {
  const [light, dark] = [a, b].map((shade) => {
    const parts = shade.map((part) => part / 255);
    const [red, green, blue] = parts.map((part) => (part <= 0.04 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
  }).sort((one, other) => other - one);
  return light / dark;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_who_refused_is_told_apart(meshlite: StartMeshlite, look: Open, scheme: str) -> None:
    """By the breaker hatched, by the retry budget plain and of another lightness; in the chart as in the bar below."""
    page = look(meshlite(), color_scheme=scheme, forgiven="getImageData")
    expect(page.locator("[data-edge]")).to_have_count(3)
    drawn = page.evaluate(
        """async () => {
          const { state, set, meshTime } = await import("/page/store.js");
          const now = Math.floor(meshTime());
          const outcomes = { circuit_open: 20, retry_budget: 20 };
          state.history["orders→inventory"] = Array.from({ length: 200 }, (_, place) => (
            { at: now - 200 + place, p50: 3, p99: 20, outcomes }));
          for (;;) {
            const overview = { ...state.overview, edges: state.overview.edges.map((edge) => ({ ...edge, outcomes })) };
            set({ overview, chosen: { edge: "orders→inventory", by: "person" } });
            await new Promise((done) => setTimeout(done, 30));
            if (state.overview !== overview) continue; // news have come
            const style = (name, part) => getComputedStyle(document.querySelector(name), part);
            const drawn = (...place) => style(...place).backgroundImage.split("(")[0];
            return ["warn", "warn3"].map((tone) => [drawn(`.stack .${tone}`), drawn(`.key .${tone}`, "::before")]);
          }
        }"""
    )
    assert drawn == [["repeating-linear-gradient"] * 2, ["none"] * 2]
    expect(page.locator(".plots canvas")).to_have_count(2)
    # A dark and a light point of what 0 to 20 and what 20 to 40 a second are drawn as; the top is 46.
    bands = """async (canvas) => {
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      const over = canvas.parentNode.querySelector(".u-over").getBoundingClientRect();
      const { left, top } = canvas.getBoundingClientRect();
      return [10, 30].map((value) => {
        const y = over.top - top + over.height * (1 - value / 46) - 8;
        const { data } = canvas.getContext("2d").getImageData(over.left - left + over.width / 2, y, 16, 16);
        const points = Array.from({ length: 256 }, (_, at) => [...data.slice(at * 4, at * 4 + 3)]);
        points.sort((a, b) => a[0] + a[1] + a[2] - b[0] - b[1] - b[2]);
        return [points[50], points[205]];
      });
    }"""
    breaker, budget = page.locator(".plots canvas").nth(1).evaluate(bands)
    assert page.evaluate(RATIO, breaker) > 3, "hatched"
    assert budget[0] == budget[1], "plain"
    for shade in breaker:
        assert page.evaluate(RATIO, [shade, budget[0]]) > 2.3


@pytest.mark.parametrize("width", [1440, 1041, 360])
def test_a_choice_can_be_read_whole(meshlite: StartMeshlite, look: Open, width: int) -> None:
    """What a fault does, in as many lines as it takes to say."""
    page = look(meshlite(), width=width)
    cut = """(select) => {
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = getComputedStyle(select).font;
      const room = select.clientWidth - 34; // without the paddings and the arrow
      return [...select.options].map((each) => each.text).filter((text) => {
        select.value = text.split(":")[0];
        return select.clientHeight < 8 + 15 * Math.ceil(pen.measureText(text).width / room);
      });
    }"""
    assert page.get_by_label("What it does").evaluate(cut) == []


def test_a_link_leads_past_what_happened(meshlite: StartMeshlite, look: Open) -> None:
    """The second of the page leads to the tabs below, the one that is open; from there the arrows go on."""
    page = look(meshlite())
    expect(page.locator("[data-edge]")).to_have_count(3)
    page.evaluate("""import("/page/store.js").then(({ set }) => set({ tab: "traces" }))""")
    page.locator("body").press("Tab")
    for name in ("Skip to the edge", "Skip to faults, services, traces"):
        link = page.get_by_role("link", name=name)
        expect(link).to_be_focused()
        expect(link).to_be_in_viewport(ratio=1)
        page.keyboard.press("Tab")
    link.press("Enter")
    expect(page.get_by_role("tab", name="Traces")).to_be_focused()
    expect(page.get_by_role("tab", name="Traces")).to_be_in_viewport(ratio=1)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Faults")).to_be_focused()


def test_a_dialog_has_nothing_to_complain_of(meshlite: StartMeshlite, look: Open) -> None:
    """Not even in passing; the keyboard is on what does nothing."""
    page = look(meshlite())
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    button = page.get_by_role("button", name="Inventory crashes")
    for _ in range(2):
        button.press("Enter")
        expect(page.get_by_role("button", name="Leave it")).to_be_focused()
        page.keyboard.press("Escape")
        expect(button).to_be_focused()
    assert said == []
