// What is broken on purpose: presets of one click, all faults with what they did, a form for new ones.
import { html, useState } from "./preact.js";
import { useStore } from "./store.js";
import { Act, bring, Left } from "./parts.js";
import { command } from "./services.js";
import { audience } from "./top.js";
import { tracesOf } from "./traces.js";
import { effect } from "./words.js";
import { FaultForm } from "./faultform.js";

const MINUTE = { enabled: true, duration: 60 };

// The first is the config's own; the others are made when they are clicked, and go by themselves after a minute.
const PRESETS = [
  {
    name: "slow-inventory",
    title: "Inventory 5 s slow",
    text: "Slower than orders waits for: timeouts, then the breaker.",
    rule: { service: "inventory", kind: "delay", seconds: 5 },
  },
  {
    name: "inventory-fails",
    title: "Inventory fails",
    text: "Half of its answers are 503: retries help, until the breaker opens.",
    rule: { service: "inventory", kind: "error", status: 503, probability: 0.5, ...MINUTE },
  },
  {
    name: "users-resets",
    title: "Users cuts connections",
    text: "Orders cannot ask who buys: new orders are refused.",
    rule: { service: "users", kind: "reset", caller: "orders", ...MINUTE },
  },
  {
    name: "orders-hangs",
    title: "Orders never answers",
    text: "Users waits as long as its deadline says, and not longer.",
    rule: { service: "orders", kind: "hang", caller: "users", ...MINUTE },
  },
  {
    name: "lost-answers",
    title: "Lost answers",
    text: "Inventory reserves, and orders never hears of it: undone, not sold twice.",
    rule: { service: "inventory", kind: "reset", phase: "response", method: "PUT", route: "/reservations/*", ...MINUTE },
  },
];

// What a fault says beside what it does; how long is up to whoever switches it on.
const STATE = new Set(["name", "enabled", "duration", "source", "matches", "hits", "active", "remaining", "warnings"]);

const path = (name) => `/api/faults/${encodeURIComponent(name)}`;

// The fault of a preset's name, if it does what the preset says, however long: somebody may have put another in its place.
function meant({ name, rule }, overview) {
  const { duration: _, ...said } = { phase: "request", ...rule };
  const there = overview.faults.find((each) => each.name === name);
  const keys = there && Object.keys(there).filter((key) => !STATE.has(key));
  return keys?.every((key) => key in said) && Object.entries(said).every(([key, value]) => key === "enabled" || there[key] === value)
    ? there
    : undefined;
}

function switching(preset, there) {
  const request = (method, body) => ({ method, path: path(preset.name), body });
  if (there?.enabled) return { label: `${preset.title}: off`, requests: [request("PATCH", { enabled: false })] };
  // The config's own keeps what else its table says.
  const on = there && !preset.rule.enabled ? request("PATCH", { enabled: true }) : request("PUT", { ...preset.rule, enabled: true });
  return { label: `${preset.title}: on`, requests: [on, ...audience()] };
}

export function Presets() {
  const { overview, link } = useStore();
  return html`<section class="card presets" aria-labelledby="break-title">
    <div class="row"><h2 id="break-title">Break something</h2>
      <span class="small">One click, and one more to mend it. Traffic is sent along if there is none.</span></div>
    <div class="grid">${PRESETS.map((preset) => {
      const there = meant(preset, overview);
      const on = there?.enabled && there;
      return html`<${Act} action=${switching(preset, there)} kind="preset ${on ? "on" : ""}" pressed=${!!on} key=${preset.name}>
        <b>${preset.title}</b><span>${preset.text}</span>${on && html`<span><i>on${on.remaining === null ? "" : html`, <${Left} left=${on.remaining} /> left`}</i> Click to mend it.</span>`}</${Act}>`;
    })}<${Crash} service=${overview.services.find((each) => each.name === "inventory")} overview=${overview} link=${link} /></div>
  </section>`;
}

// No fault, but the real thing. Where the whole mesh goes or has gone, it is nobody's crash, and no click mends it.
function Crash({ service, overview, link }) {
  const down = link === "live" && overview.state === "running" && ["stopped", "failed"].includes(service.state);
  const kill = command(overview, service, "kill");
  const sent = audience();
  const crash = {
    ...kill,
    requests: [...kill.requests, ...sent],
    confirm: sent.length ? [...kill.confirm, "Nobody asks anything just now: traffic is sent along."] : kill.confirm,
  };
  return html`<${Act} action=${down ? command(overview, service, "start") : crash} kind="preset ${down ? "on" : ""}" pressed=${down}>
    <b>Inventory crashes</b><span>Killed, as by kill -9.</span>${down && html`<span><i>${service.state}</i> Click to start it.</span>`}</${Act}>`;
}

// Where the keyboard goes when the button that it was on goes with what it did.
const toPanel = () => document.getElementById("panel").focus({ preventScroll: true });

export function Faults() {
  const { overview } = useStore();
  const [edited, edit] = useState(null);
  const on = overview.faults.filter((each) => each.enabled);
  const clear = {
    label: "Switch all off",
    requests: on.map((each) => ({ method: "PATCH", path: path(each.name), body: { enabled: false } })),
    then: toPanel,
  };
  return html`<div class="two">
    <div><div class="row"><h3>What there is</h3><span class="space" />${on.length > 0 && html`<${Act} action=${clear} />`}</div>
      ${
        overview.faults.length
          ? html`<ul class="faults">${overview.faults.map((fault) => html`<${Fault} fault=${fault} onEdit=${() => (edit(fault), bring("fault-form", true))} key=${fault.name} />`)}</ul>`
          : html`<p class="empty">There are no faults. Take one of the presets above, or make your own.</p>`
      }</div>
    <${FaultForm} fault=${edited} onDone=${() => (edit(null), bring("fault-form"))} key=${edited?.name} />
  </div>`;
}

function Fault({ fault, onEdit }) {
  const { name, enabled } = fault;
  const flip = {
    label: `${name}: ${enabled ? "off" : "on"}`,
    requests: [{ method: "PATCH", path: path(name), body: { enabled: !enabled } }],
  };
  const remove = { label: `Remove ${name}`, requests: [{ method: "DELETE", path: path(name) }], then: toPanel };
  const more = Object.entries(fault).filter(
    ([key]) => ["route", "method", "phase", "after", "every", "times", "script", "max_active"].includes(key) && fault[key] !== "request",
  );
  return html`<li class=${enabled ? "on" : ""}>
    <div><b>${name}</b> <span>${fault.service} ${effect(fault)}</span>${
      more.length > 0 &&
      html` <span
      class="small">${more.map(([key, value]) => `${key} ${value}`).join(", ")}</span>`
    }
      <p class="small num">${
        enabled
          ? html`<b
        class="fault-word">on</b>${fault.remaining === null ? "" : html`, <${Left} left=${fault.remaining} /> left`} · struck ${fault.hits} of ${fault.matches} picked${fault.active ? ` · holds ${fault.active} now` : ""}`
          : `off${fault.hits ? ` · struck ${fault.hits}` : ""}`
      } · from ${fault.source}</p>${fault.warnings.map((text) => html`<p class="wrong">It strikes nothing: ${text}</p>`)}</div>
    <span class="row">${
      fault.hits > 0 &&
      html`<button type="button" class="button small" onClick=${() => tracesOf(name)}
      aria-label="Traces of ${name}">Traces</button>`
    }
      <button type="button" class="button small" onClick=${onEdit} aria-label="Change ${name}">Change</button>
      <${Act} action=${remove} kind="small">Remove<span class="hidden"> ${name}</span></${Act}>
      <${Act} action=${flip} kind="small ${enabled ? "" : "primary"}">${enabled ? "Switch off" : "Switch on"}<span class="hidden"> ${name}</span>
        </${Act}></span>
  </li>`;
}
