// What single requests went through: the latest or the slowest, and of one of them each call, attempt and refusal.
import { html, useEffect, useRef } from "./preact.js";
import { get } from "./api.js";
import { poll } from "./live.js";
import { set, state, useStore } from "./store.js";
import { bring } from "./parts.js";
import { ms, time } from "./words.js";
import { Waterfall } from "./waterfall.js";

const FILTERS = ["order", "service", "outcome", "fault", "since", "until"];
const TONES = { ok: "good", degraded: "warn", failed: "bad" };

async function load() {
  const asked = state.traces;
  const query = new URLSearchParams({ limit: "50" });
  for (const key of FILTERS) if (asked[key]) query.set(key, asked[key]);
  let found;
  try {
    found = (await get(`/api/traces?${query}`)).traces;
  } catch (error) {
    if (error.status !== 404) throw error;
    found = []; // an older mesh keeps none
  }
  if (FILTERS.every((key) => state.traces[key] === asked[key])) set({ traces: { ...state.traces, list: found } });
}

const around = (at, seconds) => ({
  since: new Date((at - seconds) * 1000).toISOString(),
  until: new Date((at + seconds) * 1000).toISOString(),
});
const ANY = { order: "latest", service: "", outcome: "", fault: "", since: "", until: "", gone: "" };

// Show what went over an edge at a moment: that second, and those beside it, the slowest first, for they are looked for.
export function tracesAt(edge, at) {
  const [caller] = edge.split("→");
  set({ tab: "traces", traces: { ...ANY, ...around(at, 2), order: "slowest", service: caller, list: null, open: null } });
  bring("panel");
}

// Show which requests a fault has struck.
export function tracesOf(fault) {
  set({ tab: "traces", traces: { ...ANY, fault, list: null, open: null } });
  bring("panel");
}

// Show one trace, from wherever it was met; if it is not kept, say so above the list.
export async function openTrace(id) {
  set({ tab: "traces", traces: { ...ANY, list: null, open: null } });
  const found = await get(`/api/traces/${id}`).then(
    (open) => ({ open }),
    (error) => (error.status === 404 ? { gone: id } : {}),
  );
  set({ traces: { ...state.traces, ...found } });
  bring("panel");
}

export function Traces() {
  const { traces, overview } = useStore();
  const { list, open } = traces;
  useEffect(() => {
    load().catch(() => {});
    // While a trace is looked at, or a moment is, the list stands still.
    poll(state.traces.open || state.traces.until ? null : () => load().catch(() => {}));
    return () => poll(null);
  }, [...FILTERS.map((key) => traces[key]), !!open]);
  const change = (patch) => set({ traces: { ...state.traces, ...patch, list: null, open: null, gone: "" } });
  const select = (key, label, choices) => html`<label>${label} <select value=${traces[key]}
    onChange=${(event) => change({ [key]: event.target.value })}>${choices.map(([value, text]) => html`<option value=${value} selected=${traces[key] === value}>${text}</option>`)}</select></label>`;
  const middle = traces.since && (Date.parse(traces.since) + Date.parse(traces.until)) / 2000;
  const filtered = FILTERS.slice(1).some((key) => traces[key]);
  const moved = (patch) => {
    change(patch);
    bring("panel"); // the button that was clicked may be gone
  };
  const faults = [...new Set([...overview.faults.map((each) => each.name), traces.fault])].filter(Boolean);
  // The first of the list is shown until another one is picked, however many come meanwhile.
  const first = useRef(null);
  if (list === null) first.current = null;
  else first.current ??= list[0];
  const shown = open ?? first.current;
  return html`<div class="row filters">
      ${select("order", "Which", [
        ["latest", "the latest"],
        ["slowest", "the slowest"],
      ])}
      ${select("service", "Through", [["", "any service"], ...["users", "orders", "inventory"].map((each) => [each, each])])}
      ${select("outcome", "Outcome", [
        ["", "any"],
        ["ok", "ok"],
        ["degraded", "degraded"],
        ["failed", "failed"],
      ])}
      ${select("fault", "Fault", [["", "any, or none"], ...faults.map((each) => [each, each])])}
      ${
        traces.since &&
        html`<span class="moment small num">around ${time(middle)}
        <button type="button" class="button small" onClick=${() => moved({ since: "", until: "" })}>Any time</button></span>`
      }
      <span class="space" /><button type="button" class="button small" onClick=${() => change({})}>Ask again</button>
    </div>
    ${
      traces.gone &&
      html`<p class="empty" role="status">Trace <code>${traces.gone}</code> is not kept: of many good answers only the latest and
        the slowest are. What fails, or is struck by a fault, stays longer.</p>`
    }
    ${list === null && html`<p class="empty asking">Asking for traces.</p>`}
    ${
      list?.length === 0 &&
      html`<div class="empty">${
        traces.since
          ? html`<p>No trace of that moment is kept: the whole ones go first, those that failed or were slow stay longer.</p>
        <button type="button" class="button small" onClick=${() => moved({ ...around(middle, 60), service: "" })}>What is kept of the minute before and after</button>`
          : filtered
            ? "No trace like that is kept."
            : "No traces yet. Send traffic, and each request can be followed here from service to service."
      }</div>`
    }
    ${
      shown &&
      html`<div class="two traces"><${List} list=${list ?? []} shown=${shown} />
      <${Waterfall} trace=${shown} key=${shown.trace_id} /></div>`
    }`;
}

function List({ list, shown }) {
  const longest = Math.max(...list.map((each) => each.ms), 1);
  return html`<ol class="trace-list" aria-label="Traces">${list.map((trace) => {
    const here = shown?.trace_id === trace.trace_id;
    const pick = () => {
      set({ traces: { ...state.traces, open: trace } });
      if (matchMedia("(max-width: 1040px)").matches) bring("waterfall", true); // it is drawn below the list there
    };
    return html`<li key=${trace.trace_id}><button type="button" aria-pressed=${here} onClick=${pick} class=${TONES[trace.outcome]}>
      <span class="num at">${time(Date.parse(trace.started_at) / 1000)}</span>
      <span class="what"><b>${trace.method} ${trace.route}</b> <i>${trace.service}</i></span>
      <span class="outcome">${trace.outcome}${trace.status ? ` ${trace.status}` : ""}</span>
      <span class="num took">${ms(trace.ms)}</span>
      <span class="bar" aria-hidden="true"><i style=${{ width: `${Math.max(1, (100 * trace.ms) / longest)}%` }} /></span>
      ${trace.faults?.length > 0 && html`<span class="struck">⚡ ${trace.faults.join(", ")}</span>`}
    </button></li>`;
  })}</ol>`;
}
