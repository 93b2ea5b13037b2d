// The form for a fault. It knows which keys each kind has, and which make no sense with others; the mesh checks all the same.
import { html, useState } from "./preact.js";
import { act, preview } from "./api.js";
import { useStore } from "./store.js";

const SERVICES = ["users", "orders", "inventory"];
const KINDS = {
  delay: ["answers late", ["seconds", "jitter", "distribution"]],
  error: ["answers with an error", ["status", "body"]],
  reset: ["resets the connection", []],
  hang: ["never answers", []],
  truncate: ["breaks off its answer", []],
  throttle: ["sends slowly", ["bytes_per_second"]],
  corrupt: ["answers what is no JSON", []],
  unready: ["says it is not ready", []],
  block: ["holds the event loop, all three", ["seconds"]],
};
const NEEDED = { delay: { seconds: 5 }, error: { status: 503 }, throttle: { bytes_per_second: 200 }, block: { seconds: 0.5 } };
const DAY = 86_400;
// key: [label, kind of input, hint, attributes]
const FIELDS = {
  seconds: ["Seconds", "number", "how long", { min: 0.001, max: DAY, step: "any" }],
  jitter: ["Jitter, seconds", "number", "up to so much more or less", { min: 0.001, max: DAY, step: "any" }],
  distribution: ["Distribution", ["uniform", "normal", "lognormal", "pareto"], "all but uniform need jitter"],
  status: ["Status", "number", "400 to 599", { min: 400, max: 599 }],
  body: ["Body", "text", "in place of a problem document"],
  bytes_per_second: ["Bytes a second", "number", "", { min: 1 }],
  phase: ["When", ["request", "response"], "response: the work is done, the answer late or lost"],
  caller: ["Caller", [["", "any"], ...SERVICES, "external"], "external: from outside the mesh"],
  route: ["Route", "text", "a pattern: /orders*"],
  method: ["Method", "text", "a pattern: GET, P*"],
  probability: ["Share", "number", "0 to 1 of those picked", { min: 0, max: 1, step: "any" }],
  after: ["After", "number", "spare the first so many", { min: 0 }],
  every: ["Every", "number", "only each nth", { min: 1 }],
  times: ["Times", "number", "so often, then never again", { min: 1 }],
  max_active: ["At most at once", "number", "", { min: 1 }],
  duration: ["Off after, seconds", "number", "goes by itself", { min: 0.1, max: DAY, step: "any" }],
};
const PICKING = ["caller", "route", "method", "probability"];
const ORDER = ["after", "every", "times", "max_active"];
const FOLDED = ["phase", ...PICKING, ...ORDER];
const OF_A_KIND = new Set([...Object.values(KINDS).flatMap(([, keys]) => keys), "phase", "statuses", "response_headers"]);
const STATE = ["name", "source", "matches", "hits", "active", "remaining", "warnings"];
const SHOWN = new Set(["service", "kind", "enabled", ...STATE, ...Object.keys(FIELDS)]);

// What the form says, as the table that the mesh takes; `kept` is what it does not show of a fault that is changed.
function table(values, kept) {
  const own = KINDS[values.kind][1];
  const keys = values.kind === "unready" ? ["duration"] : [...own, "phase", ...PICKING, ...ORDER, "duration"];
  const found = { ...kept, service: values.service, kind: values.kind, enabled: true };
  for (const key of keys) {
    const value = values[key];
    if (value !== undefined && value !== "") found[key] = FIELDS[key][1] === "number" ? Number(value) : value;
  }
  return found;
}

// What holds of a choice where nothing is said.
const usual = (key, kind) => ({ phase: kind === "throttle" ? "response" : "request", distribution: "uniform" })[key] ?? "";

export function FaultForm({ fault, onDone }) {
  const { overview } = useStore();
  const [values, change] = useState(() =>
    fault ?? { name: "my-fault", service: "inventory", kind: "delay", seconds: 2, duration: 60 },
  );
  const [wrong, complain] = useState({});
  const [unfolded, unfold] = useState(!!fault);
  const replaces = !fault && overview.faults.some((each) => each.name === values.name);
  const verb = fault ? "Change" : replaces ? "Replace" : "Make";
  const stays = (key) => !SHOWN.has(key) && (values.kind === fault.kind || !OF_A_KIND.has(key));
  const kept = fault ? Object.fromEntries(Object.entries(fault).filter(([key]) => stays(key))) : {};
  const action = {
    label: `${verb} ${values.name}`,
    requests: [{ method: "PUT", path: `/api/faults/${encodeURIComponent(values.name)}`, body: table(values, kept) }],
    raises: true,
  };
  const put = (key) => (event) => {
    const next = { ...values, [key]: event.target.value };
    if (key === "kind") Object.assign(next, { phase: undefined, ...NEEDED[next.kind] });
    change(next);
    complain(key === "kind" ? {} : { ...wrong, [key]: undefined, form: undefined }); // it was said of what was there before
  };
  const send = async (event) => {
    event.preventDefault();
    complain({});
    try {
      await act(action);
      onDone();
    } catch (error) {
      const found = Object.fromEntries(
        (error.fields ?? []).map((each) => [(each.pointer ?? "").replace(/^\//, "").split("/")[0] || "name", each.detail]),
      );
      if (FOLDED.some((key) => found[key])) unfold(true);
      const unseen = Object.keys(found).some((key) => !document.getElementById(`f-${key}`));
      complain(unseen || !Object.keys(found).length ? { ...found, form: error.message } : found);
    }
  };
  const field = (key) => {
    const [label, kind, hint, more] = FIELDS[key];
    return html`<${Field} name=${key} label=${label} hint=${hint} kind=${kind} more=${more} value=${values[key] ?? usual(key, values.kind)}
      onInput=${put(key)} wrong=${wrong[key]} />`;
  };
  const picks = values.kind !== "unready";
  return html`<form class="fault-form" id="fault-form" tabindex="-1" onSubmit=${send} onFocusCapture=${() => preview(action)} aria-labelledby="form-title">
    <h3 id="form-title">${fault ? `Change ${fault.name}` : "A fault of your own"}</h3>
    <div class="fields">
      <${Field} name="name" label="Name" kind="text" value=${values.name}
        onInput=${put("name")} wrong=${wrong.name} more=${{ required: true, maxLength: 63, pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]*", readOnly: !!fault }}
        hint=${replaces ? html`<b>There is a fault of this name: it is replaced.</b>` : "letters, digits, - and _"} />
      <${Field} name="service" label="Who misbehaves" kind=${SERVICES} value=${values.service}
        onInput=${put("service")} wrong=${wrong.service} />
      <${Field} name="kind" label="What it does" kind=${Object.entries(KINDS).map(([key, [text]]) => [key, `${key}: ${text}`])} value=${values.kind}
        onInput=${put("kind")} wrong=${wrong.kind} />
      ${KINDS[values.kind][1].map(field)}
      ${field("duration")}
    </div>
    ${
      picks &&
      html`<details open=${unfolded} onToggle=${(event) => unfold(event.target.open)}>
      <summary>Which requests, in which order</summary><div class="fields">${FOLDED.map(field)}</div></details>`
    }
    ${wrong.form && html`<p class="wrong" role="alert">${wrong.form}</p>`}
    <div class="row end">${fault && html`<button type="button" class="button" onClick=${onDone}>Leave it</button>`}<button
      class="button primary" onMouseEnter=${() => preview(action)}>${verb} it, and switch it on</button>
      </div>
  </form>`;
}

function Field({ name, label, kind, hint, value, onInput, wrong, more = {} }) {
  const id = `f-${name}`;
  const said = [wrong && `${id}-wrong`, hint && `${id}-hint`].filter(Boolean).join(" ") || undefined;
  const choices = Array.isArray(kind) ? kind.map((each) => (Array.isArray(each) ? each : [each, each])) : null;
  return html`<div class="field"><label for=${id}>${label}</label>
    ${
      choices
        ? html`<select id=${id} value=${value} onChange=${onInput} aria-describedby=${said}
        aria-invalid=${!!wrong}>${choices.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select>`
        : html`<input id=${id} type=${kind} value=${value} onInput=${onInput} aria-describedby=${said}
        aria-invalid=${!!wrong} autocomplete="off" ...${more} />`
    }
    ${wrong ? html`<p class="wrong" id="${id}-wrong" role="alert">${wrong}</p>` : hint && html`<p class="small" id="${id}-hint">${hint}</p>`}
  </div>`;
}
