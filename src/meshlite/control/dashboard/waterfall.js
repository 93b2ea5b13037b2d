// One trace, drawn over its time: what each service did, each call with its attempts, the waits between, the refusals.
import { html } from "./preact.js";
import { ms, outcome, STATES, time } from "./words.js";

const KINDS = { server: "answers", call: "calls", attempt: "attempt", storage: "writes" };

// Parents before their children, siblings by time.
export function ordered(spans) {
  const children = Map.groupBy ? Map.groupBy(spans, (span) => span.parent_id) : grouped(spans);
  const found = [];
  const visit = (span, depth) => {
    found.push([span, depth]);
    for (const child of [...(children.get(span.span_id) ?? [])].sort((a, b) => a.start_ms - b.start_ms)) visit(child, depth + 1);
  };
  for (const root of children.get(null) ?? []) visit(root, 0);
  return found;
}

function grouped(spans) {
  const found = new Map();
  for (const span of spans) found.set(span.parent_id, [...(found.get(span.parent_id) ?? []), span]);
  return found;
}

const refused = (span) => span.kind === "attempt" && span.attributes.refused;

// Whether what a call or an attempt asked for came as far as its callee.
const arrived = (span, spans) => spans.some((each) => each.parent_id === span.span_id && (each.kind === "server" || arrived(each, spans)));

function ended(span, spans) {
  if (span.outcome === "unreachable") return arrived(span, spans) ? "the connection broke" : "no connection";
  if (span.outcome === "cancelled" && span.attributes.fault) return "sent no answer"; // whether it had one, and who gave up first, the span does not tell
  return outcome(span.outcome).word;
}

// What there is to say of a span beside its name, in words.
function said(span, spans) {
  const { kind, outcome: came, attributes: of } = span;
  const parts = [];
  if (refused(span)) {
    parts.push(
      `not sent: ${outcome(of.refused).word}${of.breaker && of.breaker !== "closed" ? ` (${STATES[of.breaker]?.word ?? of.breaker})` : ""}`,
    );
  } else if (came !== "ok") parts.push(kind === "server" && came.startsWith("http") ? String(of.status) : ended(span, spans));
  else if (kind === "server" && of.status) parts.push(String(of.status));
  if (of.waited_ms) parts.push(`waited ${ms(of.waited_ms)} for the bulkhead`);
  if (of.backoff_ms && !refused(span)) parts.push(`after a pause of ${ms(of.backoff_ms)}`);
  if (of.fault) parts.push(`⚡ ${of.fault}`);
  if (of.degraded) parts.push(`degraded: ${[of.degraded].flat().join(", ")}`);
  if (of.retry_after) parts.push(`again in ${ms(of.retry_after * 1000)}`);
  if (kind === "attempt" && came === "timeout" && of.timeout_ms) parts.push(`limit ${ms(of.timeout_ms)}`);
  return parts.join(" · ");
}

const name = (span) =>
  span.kind === "attempt"
    ? `attempt ${span.attributes.number ?? ""}`
    : span.kind === "call"
      ? `${span.attributes.edge ?? span.service} ${span.attributes.method ?? ""} ${span.attributes.route ?? ""}`
      : span.kind === "server"
        ? `${span.service} ${span.name}`
        : span.name;

function tone(span) {
  if (refused(span)) return "refused";
  if (span.outcome !== "ok") return "bad";
  return span.attributes.fault ? "fault" : span.kind;
}

export function Waterfall({ trace }) {
  const rows = ordered(trace.spans);
  const whole = Math.max(trace.ms, ...trace.spans.map((span) => span.start_ms + span.ms), 0.001);
  const share = (value) => `${((100 * value) / whole).toFixed(2)}%`;
  return html`<div class="waterfall" id="waterfall" tabindex="-1" role="group" aria-labelledby="trace-title">
    <div class="row"><h3 id="trace-title">${trace.method} ${trace.route} <span
      class=${trace.outcome === "ok" ? "good" : trace.outcome === "degraded" ? "warn" : "bad"}>${trace.outcome}</span></h3><span class="space" />
      <span class="num small">${ms(trace.ms)}</span></div>
    <p class="small">asked of <b>${trace.service}</b> by ${trace.caller}, ${time(Date.parse(trace.started_at) / 1000)} · trace <code>${trace.trace_id}</code>${trace.dropped_spans ? ` · ${trace.dropped_spans} spans were too many` : ""}</p>
    <div class="scale num small" aria-hidden="true"><span>0</span><span>${ms(whole / 2)}</span><span>${ms(whole)}</span></div>
    <ol class="spans">${rows.map(
      ([span, depth]) => html`<li class=${tone(span)} key=${span.span_id}>
      <div class="label" style=${{ paddingLeft: `${Math.min(depth, 6) * 12}px` }}>
        <b>${name(span)}</b> <i>${KINDS[span.kind] === "attempt" ? "" : KINDS[span.kind]}</i></div>
      <div class="track" aria-hidden="true">
        ${
          span.attributes.backoff_ms > 0 &&
          html`<i class="wait"
          style=${{ left: share(Math.max(0, span.start_ms - span.attributes.backoff_ms)), width: share(Math.min(span.attributes.backoff_ms, span.start_ms)) }} />`
        }
        ${span.attributes.waited_ms > 0 && html`<i class="wait" style=${{ left: share(span.start_ms), width: share(span.attributes.waited_ms) }} />`}
        ${
          refused(span)
            ? html`<i class="cross" style=${{ left: share(span.start_ms) }}>✕</i>`
            : html`<i class="span" style=${{ left: share(span.start_ms), width: `max(2px, ${share(span.ms)})` }} />`
        }
      </div>
      <div class="said small"><span class="num">${refused(span) ? "" : ms(span.ms)}</span> ${said(span, trace.spans)}</div>
    </li>`,
    )}</ol>
  </div>`;
}
