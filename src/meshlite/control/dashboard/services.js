// The services: how each is, stopping and starting it, with what will come of that said first; and the log.
import { html, useEffect } from "./preact.js";
import { get } from "./api.js";
import { poll } from "./live.js";
import { set, state, useStore } from "./store.js";
import { openTrace } from "./traces.js";
import { Act } from "./parts.js";
import { capital, felt, ms, percent, rate, spared, STATES, stateOf, time, unguarded, useless } from "./words.js";

// What comes of it to one that calls it, by the state of its breaker.
function then(edge) {
  const name = `${edge.caller}→${edge.callee}`;
  const state = stateOf(edge);
  if (["open", "forced_open"].includes(state) && !spared(edge)) return `${name} is refused already: its breaker is ${STATES[state].word}.`;
  if (unguarded(edge)) return `Then ${name} gets no connection. ${useless(edge)}`;
  const opens = edge.policy.breaker.per === "route" ? "the breaker of the route opens" : "its breaker opens";
  return `Then ${name} gets no connection, and ${state === "half_open" ? "at the next probe" : "after some failures in a row"} ${opens}.`;
}

// Stopping, killing or starting one; what cannot be undone in a moment says first what will happen.
export function command(overview, service, action) {
  const asked = {
    label: `${capital(action)} ${service.name}`,
    requests: [{ method: "POST", path: `/api/services/${service.name}/${action}` }],
  };
  return action === "start" ? asked : { ...asked, confirm: will(overview, service, action).filter(Boolean), kind: "danger" };
}

function will(overview, service, action) {
  const by = overview.edges.filter((edge) => edge.callee === service.name);
  const come = [...by.map(then), ...by.map((edge) => felt(edge))];
  const gone = overview.durable ? "" : 'All its data is lost, for it is in memory (mesh.data = ":memory:").';
  return {
    stop: [
      `${service.name} takes nothing new, finishes what is in flight (${service.in_flight} now, for as long as mesh.shutdown_grace says), and closes its port.`,
      gone,
      ...come,
    ],
    kill: [
      `Every connection of ${service.name} is cut at once, as by a crash: ${service.in_flight} in flight get no answer. ${gone || "What was answered is on disk."}`,
      ...come,
    ],
    restart: [
      `${service.name} stops, finishing what is in flight (${service.in_flight} now), and starts again${gone ? " as new" : " with what is on disk"}. In between nobody gets a connection.`,
      gone,
    ],
  }[action];
}

export function Services() {
  const { overview } = useStore();
  return html`<div class="services">${overview.services.map((service) => html`<${Service} service=${service} overview=${overview} key=${service.name} />`)}</div><${Log} />`;
}

function Service({ service, overview }) {
  const { name } = service;
  const up = service.state === "running";
  const down = ["stopped", "failed"].includes(service.state);
  const button = (action, kind, disabled) =>
    html`<${Act} action=${command(overview, service, action)} kind="small ${kind}" disabled=${disabled}>${capital(action)}<span class="hidden"> ${name}</span></${Act}>`;
  // What the page was reached by may be another name of this machine than the one the service gives itself.
  const url = new URL(service.url);
  if (["localhost", "127.0.0.1"].includes(url.hostname)) url.hostname = location.hostname;
  return html`<article class="service-card ${up ? (service.ready ? "good" : "warn") : "bad"}" aria-label=${name}>
    <div class="row"><h3>${name}</h3><b class="state-word">${service.state}</b><span class="space" />
      <span class="small">${up ? (service.ready ? "ready" : "says it is not ready") : "not ready"}</span></div>
    <p class="small num">${rate(service.rate)} · p99 ${ms(service.p99_ms)} · ${percent(service.error_rate)} failed · ${service.in_flight} in flight</p>
    <p class="small">${up ? html`<a href="${url.origin}/docs">${url.host}</a>` : url.host}${service.reason ? html` · <strong>${service.reason}</strong>` : ""}</p>
    <div class="row">${button("start", down ? "primary" : "", !down)}${["stop", "kill", "restart"].map((action) => button(action, "", down || service.state === "starting"))}</div>
  </article>`;
}

async function loadLog() {
  const { service, level, event } = state.logs;
  const query = new URLSearchParams({ limit: "60", level });
  if (service) query.set("service", service);
  if (event) query.set("event", event);
  const { logs } = await get(`/api/logs?${query}`);
  if (state.logs.service === service && state.logs.level === level && state.logs.event === event)
    set({ logs: { ...state.logs, list: logs } });
}

// In this machine's time, as all else on the page.
const moment = (stamp) => `${time(Date.parse(stamp) / 1000)}.${String(new Date(stamp).getMilliseconds()).padStart(3, "0")}`;

const KNOWN = new Set(["timestamp", "level", "event", "trace_id", "span_id"]);

function Log() {
  const { logs } = useStore();
  const { service, level, event, list } = logs;
  useEffect(() => {
    loadLog().catch(() => {});
    poll(() => loadLog().catch(() => {}));
    return () => poll(null);
  }, [service, level, event]);
  const pick = (key) => (change) => set({ logs: { ...logs, [key]: change.target.value } });
  const select = (key, label, choices) => html`<label>${label} <select value=${logs[key]}
    onChange=${pick(key)}>${choices.map(([value, text]) => html`<option value=${value} selected=${logs[key] === value}>${text}</option>`)}</select>
    </label>`;
  const rest = (line) =>
    Object.entries(line)
      .filter(([key]) => !KNOWN.has(key))
      .map(
        ([key, value]) => html`<span>
    <i>${key}</i>${typeof value === "object" ? JSON.stringify(value) : String(value)}</span>`,
      );
  return html`<div class="log"><div class="row filters"><h3>Log</h3><span class="space" />
    ${select("service", "Service", [
      ["", "all"],
      ["users", "users"],
      ["orders", "orders"],
      ["inventory", "inventory"],
    ])}
    ${select(
      "level",
      "At least",
      ["debug", "info", "warning", "error"].map((each) => [each, each]),
    )}
    ${select("event", "Event", [["", "all"], ...["request.completed", "breaker.moved", "fault.switched", "service.moved", "config.applied", "loop.blocked"].map((each) => [each, each])])}</div>
    ${
      list?.length
        ? html`<ol class="lines" tabindex="0" aria-label="Log lines, the newest first">${list.map(
            (line) => html`<li class=${line.level}>
        <time class="num" datetime=${line.timestamp}>${moment(line.timestamp)}</time>
        <b>${line.event}</b>${rest(line)}${
          line.trace_id &&
          html`<button type="button" class="plain" onClick=${() => openTrace(line.trace_id)}
        aria-label="Trace ${line.trace_id}">trace</button>`
        }</li>`,
          )}</ol>`
        : html`<p class="empty ${list ? "" : "asking"}">${list ? "No line like that among the last thousand." : "Asking for the log."}</p>`
    }</div>`;
}
