// The small things that several panels share.
import { html, useEffect, useRef } from "./preact.js";
import { act, curl, preview } from "./api.js";
import { set, useTicks, aged } from "./store.js";
import { seconds, STATES } from "./words.js";

// A button for an action: {label, requests, confirm?}. Its curl command is shown at the bottom when it is looked at, and
// again when it is done; where something breaks for longer than a click takes, it says first what will happen.
// One that cannot be used just now keeps the keyboard all the same: it is not `disabled`, which would take it away.
export function Act({ action, kind = "", children, pressed, disabled }) {
  const look = () => preview(action);
  const go = () => disabled || (action.confirm ? set({ dialog: action }) : act(action));
  return html`<button type="button" class="button ${kind}" onClick=${go} onFocus=${look} onMouseEnter=${look}
    aria-pressed=${pressed} aria-disabled=${disabled}>${children ?? action.label}</button>`;
}

// A breaker as electricians draw it: the blade lies on both contacts, is lifted, or hangs between.
export function Switch({ state, size = 34 }) {
  const lifted = { open: -30, forced_open: -30, half_open: -13 }[state] ?? 0;
  const shape = { half_open: "dashed", disabled: "dotted", metrics_only: "dotted", none: "dotted" }[state] ?? "";
  return html`<svg class="switch ${STATES[state].tone} ${shape}" viewBox="0 0 40 24" width=${size} height=${size * 0.6} aria-hidden="true">
    <path class="lead" d="M0 17h7M33 17h7" />
    <path class="blade" d="M8 17H32" transform="rotate(${lifted} 8 17)" />
    <circle cx="8" cy="17" r="3" /><circle cx="32" cy="17" r="3" />
    ${state === "forced_open" && html`<path class="bar" d="M28 3l8 8M36 3l-8 8" />`}
  </svg>`;
}

export const Pill = ({ state, more }) =>
  html`<span class="pill ${STATES[state].tone}">
    <${Switch} state=${state} size=${26} />${STATES[state].word}${more && html` <span class="num">${more}</span>`}</span>`;

// What is left of `total` seconds, `left` of which there were when the overview was heard; as a ring, and as a number.
export function Countdown({ left, total, label }) {
  useTicks(100);
  const now = Math.max(0, left - aged());
  const round = 2 * Math.PI * 26;
  return html`<div class="countdown" role="timer" aria-label="${label}: ${Math.ceil(now)} seconds">
    <svg viewBox="0 0 64 64" width="76" height="76" aria-hidden="true">
      <circle class="track" cx="32" cy="32" r="26" />
      <circle class="rest" cx="32" cy="32" r="26" stroke-dasharray="${(round * Math.min(1, now / (total || 1))).toFixed(1)} ${round}"
        transform="rotate(-90 32 32)" />
    </svg>
    <span class="num" aria-hidden="true">${now >= 10 ? Math.ceil(now) : now.toFixed(1)}<small>s</small></span>
  </div>`;
}

export function Left({ left }) {
  useTicks(500);
  return html`<span class="num">${seconds(Math.max(0, left - aged()))}</span>`;
}

// So many of so many, as dots.
export const Dots = ({ done, of, tone, label }) =>
  html`<span class="dots ${tone}" role="img" aria-label="${label}: ${done} of ${of}">${
    of <= 20
      ? Array.from({ length: of }, (_, place) => html`<i class=${place < done ? "on" : ""} />`)
      : html`<b class="num">${done}/${of}</b>`
  }</span>`;

export const Fact = ({ name, value, tone = "", title }) =>
  html`<div class="fact ${tone}" title=${title}><dt>${name}</dt><dd class="num">${value}</dd></div>`;

export function Dialog({ action }) {
  const element = useRef();
  useEffect(() => {
    element.current.showModal();
    preview(action);
  }, [action]);
  const close = () => element.current.close(); // and only then is it removed: so the keyboard goes back to where it was
  const go = () => {
    close();
    act(action);
  };
  return html`<dialog ref=${element} onClose=${() => set({ dialog: null })} aria-labelledby="ask">
    <h2 id="ask">${action.label}?</h2>
    ${action.confirm.map((line) => html`<p>${line}</p>`)}
    <pre><code>${action.requests.map(curl).join("\n")}</code></pre>
    <div class="row end"><button type="button" class="button" onClick=${close}>Leave it</button>
    <button type="button" class="button ${action.kind ?? "primary"}" onClick=${go}>${action.label}</button></div>
  </dialog>`;
}

// Show what an action elsewhere on the page has changed, where it is out of sight; take the keyboard along then, or
// in any case where one is to go on there.
export function bring(id, go = false) {
  requestAnimationFrame(() => {
    const element = document.getElementById(id);
    if (!element) return;
    const { top, bottom } = element.getBoundingClientRect();
    const seen = top < innerHeight / 2 && bottom > innerHeight / 2;
    if (!seen) element.scrollIntoView({ block: "start" });
    if (go || !seen || document.activeElement === document.body) element.focus({ preventScroll: true });
  });
}

// Tabs as the ARIA pattern has them: one stop of the Tab key, arrows go from one to the next.
export function Tabs({ label, tabs, chosen, onChoose, panel }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = tabs.findIndex(([key]) => key === chosen);
    const [key] = tabs[(place + step + tabs.length) % tabs.length];
    onChoose(key);
    document.getElementById(`tab-${key}`)?.focus();
    event.preventDefault();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>${tabs.map(
    ([key, text]) => html`<button type="button" role="tab" id="tab-${key}" aria-selected=${key === chosen} aria-controls=${panel}
      tabindex=${key === chosen ? 0 : -1} onClick=${() => onChoose(key)}>${text}</button>`,
  )}</div>`;
}
