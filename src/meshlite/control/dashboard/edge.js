// The edge that is looked at: what its breaker does and why, how near or far it is from the next move, what came of its calls.
import { html } from "./preact.js";
import { choose, loadConfig } from "./live.js";
import { aged, edgeNamed, useStore, useTicks } from "./store.js";
import { Act, Countdown, Dots, Fact, Switch } from "./parts.js";
import { Charts } from "./charts.js";
import { tracesAt } from "./traces.js";
import { breakerOf, capital, failed, ms, OUTCOMES, outcome, percent, rate, reason, span, spared, STATES, stateOf, time, unprobed, where } from "./words.js";

export function EdgePanel() {
  const { overview, chosen } = useStore();
  const edge = edgeNamed(chosen.edge) ?? overview.edges[0];
  const name = `${edge.caller}→${edge.callee}`;
  // Who does something here has said where to look, before what was clicked may say otherwise.
  return html`<section class="card edge-panel" id="edge" tabindex="-1" aria-labelledby="edge-title" onClickCapture=${() => choose(name)}>
    <h2 id="edge-title">${edge.caller} → ${edge.callee}</h2>
    <div class="pick" role="group" aria-label="Edge to look at">${overview.edges.map((each) => {
      const other = `${each.caller}→${each.callee}`;
      const { tone } = STATES[stateOf(each)];
      const word = STATES[stateOf(each)].word + where(each);
      return html`<button type="button" aria-pressed=${other === name} class=${tone} onClick=${() => choose(other)} title=${word}>
        <${Switch} state=${stateOf(each)} size=${28} />${each.caller} → ${each.callee}<span class="hidden">, ${word}</span></button>`;
    })}</div>
    <${Hero} edge=${edge} />
    <${Controls} edge=${edge} />
    <${Charts} name=${name} />
    <${Ends} edge=${edge} />
    <${Facts} edge=${edge} />
    <${Moves} name=${name} />
    <${Breakers} edge=${edge} />
    <${Policy} edge=${edge} />
  </section>`;
}

// The state, since when, why, and what comes next.
function Hero({ edge }) {
  const state = stateOf(edge);
  const { word, tone, means } = STATES[state];
  const breaker = breakerOf(edge);
  const policy = edge.policy.breaker;
  const what = where(edge) ? `${capital(word)}${where(edge)}: ${means[0].toLowerCase()}${means.slice(1)} ${spared(edge)}` : means;
  const asked = breaker && breaker.total_successes + breaker.total_failures + breaker.total_refused + breaker.total_ignored > 0;
  const why = !policy ? "" : breaker && (asked || breaker.reason !== "new") ? reason(breaker.reason) : "Nothing has been asked yet.";
  return html`<div class="hero ${tone}">
    <div class="state"><${Switch} state=${state} size=${58} /><div>
      <p class="word">${word}</p>${breaker && html`<p class="small">for <${Since} age=${breaker.age} /></p>`}</div>
      <span class="space" />${
        state === "open" &&
        breaker.retry_after !== null &&
        html`<p class="small until" aria-hidden="true">next probe in</p>
        <${Countdown} left=${breaker.retry_after} total=${breaker.open_time || policy.reset_timeout} label="Until the next probe" />`
      }</div>
    <div class="why" id="why"><p class="reason">${why}</p><p>${what}</p><${Next} edge=${edge} breaker=${breaker} state=${state} /></div>
  </div>`;
}

function Since({ age }) {
  useTicks(1000);
  return html`<span class="num">${span(age + aged())}</span>`;
}

function Next({ edge, breaker, state }) {
  const policy = edge.policy.breaker;
  const most = policy?.max_failures;
  const needed = policy?.success_threshold;
  if (state === "open") {
    return html`<p class="next">When the time is over, a call is let in as a probe. <strong>${needed}</strong> ${needed > 1 ? "that succeed close" : "that succeeds closes"} the breaker; one that fails opens it again. ${unprobed(edge)}</p>`;
  }
  if (state === "half_open") {
    return html`<p class="next"><${Dots} done=${breaker.probe_successes} of=${needed} tone="good" label="Probes that succeeded" /> ${breaker.probe_successes} of ${needed} probes succeeded, ${breaker.probes ? `${breaker.probes} under way` : "none under way"}; ${policy.half_open_max_calls} at a time. ${unprobed(edge)}</p>`;
  }
  if (state === "closed" && most) {
    const failed = breaker?.consecutive_failures ?? 0;
    return html`<p class="next"><${Dots} done=${failed} of=${most} tone="bad" label="Failures in a row" /> ${failed} of ${most} failures in a row; ${failed ? `${most - failed} more open it.` : `${most} would open it.`}</p>`;
  }
  if (state === "closed" && breaker?.failure_rate !== null && breaker)
    return html`<p
    class="next">${percent(breaker.failure_rate)} of ${breaker.calls} calls in its window failed.</p>`;
  return null;
}

function Controls({ edge }) {
  const name = `${edge.caller} → ${edge.callee}`;
  const path = `/api/edges/${edge.caller}/${edge.callee}/breaker`;
  if (!edge.policy.breaker) return null;
  // Each stays where it is, whatever is chosen: the keyboard is on one of them.
  const mode = (mode, text, label = text) => html`<${Act} pressed=${edge.mode === mode}
    action=${{ label: `${label} ${name}`, requests: [{ method: "PUT", path, body: { mode } }] }}>${text}</${Act}>`;
  return html`<div class="row controls"><div class="modes" role="group" aria-label="The breaker's mode">
    ${mode("auto", "Automatic", "Leave to itself:")}${mode("forced_open", "Force open")}${mode("disabled", "Disable")}</div>
    <${Act} action=${{ label: `Reset ${name}`, requests: [{ method: "POST", path: `${path}/reset` }] }}>Reset</${Act}>
  </div>`;
}

function Facts({ edge }) {
  const sum = (key) => edge.breakers.reduce((total, each) => total + each[key], 0);
  const windowed = edge.breakers.some((each) => each.calls > 0);
  return html`<dl class="facts">
    <${Fact} name="calls" value=${rate(edge.rate)} title="In the last ten seconds" />
    <${Fact} name="p99" value=${ms(edge.p99_ms)} title="99 of 100 calls took no longer, retries included; of the last ten seconds" />
    <${Fact} name="failed" value=${percent(failed(edge))} tone=${failed(edge) > 0.001 ? "bad" : ""}
      title="Of the last ten seconds' calls; what was refused is not among them" />
    <${Fact} name="refused" value=${percent(edge.refused_rate)} tone=${edge.refused_rate > 0.001 ? "warn" : ""}
      title="Of the last ten seconds' calls, by the breaker or the bulkhead" />
    <${Fact} name="tries per call" value="×${edge.amplification.toFixed(2)}" tone=${edge.amplification > 1.05 ? "warn" : ""}
      title="Attempts, retries among them; 1 means no retries" />
    <${Fact} name="under way" value="${edge.in_flight}${edge.policy.bulkhead ? ` / ${edge.policy.bulkhead.max_concurrent}` : ""}"
      title="Attempts under way, of those that the bulkhead allows" />
    <${Fact} name="opened" value="${sum("opened")} ×" title="Since the start" />
    ${windowed && html`<${Fact} name="in its window" value=${`${sum("failures")} of ${sum("calls")} failed`} />`}
    <${Fact} name="succeeded" value=${sum("total_successes")} title="Attempts, since the start" />
    <${Fact} name="failed in all" value=${sum("total_failures")} title="Attempts, since the start" />
    <${Fact} name="refused in all" value=${sum("total_refused")} title="By the breaker, since the start" />
  </dl>`;
}

// How the calls of the last ten seconds ended, and who refused those that were refused.
function Ends({ edge }) {
  const found = Object.entries(edge.outcomes).sort(([a], [b]) => order(a) - order(b));
  const total = found.reduce((sum, [, count]) => sum + count, 0);
  if (!total) return html`<p class="empty small">No calls in the last ten seconds.</p>`;
  return html`<div class="ends"><h3>The last ten seconds' calls</h3>
    <div class="stack" aria-hidden="true">${found.map(([name, count]) => html`<i class=${outcome(name).tone} style=${{ flexGrow: count }} />`)}</div>
    <ul class="key">${found.map(([name, count]) => html`<li class=${outcome(name).tone}><b class="num">${count}</b> ${outcome(name).word}</li>`)}</ul>
      </div>`;
}

const order = (name) => Object.keys(OUTCOMES).indexOf(name);

function Moves({ name }) {
  const { moves } = useStore();
  const found = moves
    .filter((each) => `${each.caller}→${each.callee}` === name)
    .slice(-6)
    .reverse();
  if (!found.length) return null;
  return html`<details open class="moves"><summary>Its last moves</summary><ol>${found.map((each) => {
    const { tone, word } = STATES[each.new] ?? STATES.none;
    return html`<li><button type="button" class="plain num" onClick=${() => tracesAt(name, each.at)}
      title="The traces of that moment">${time(each.at)}</button> <b
      class=${tone}>${word}</b> <span>${reason(each.reason)}${each.key === "edge" ? "" : ` (${each.key})`}</span></li>`;
  })}</ol></details>`;
}

// Where there is a breaker for each route, each of them.
function Breakers({ edge }) {
  if (edge.breakers.length < 2) return null;
  const differ = edge.breakers.some((each) => each.state !== edge.breakers[0].state);
  return html`<details open=${differ}><summary>${edge.breakers.length} breakers, one for each route</summary>
    <div class="scroll" tabindex="0" role="group" aria-label="Breakers"><table><thead><tr><th scope="col">Route</th><th scope="col">State</th>
    <th scope="col">Why</th></tr></thead>
    <tbody>${edge.breakers.map(
      (each) => html`<tr><th scope="row">${each.key}</th><td>
      <b class=${STATES[each.state].tone}>${STATES[each.state].word}</b></td><td>${reason(each.reason)}</td></tr>`,
    )}</tbody></table></div></details>`;
}

function Policy({ edge }) {
  const { config } = useStore();
  const prefix = `edges.${edge.caller}.${edge.callee}.`;
  const values = Object.values(config ?? {}).filter((each) => each.key.startsWith(prefix));
  return html`<details onToggle=${(event) => event.target.open && loadConfig().catch(() => {})}>
    <summary>Its policy, and where each value comes from</summary><table class="policy"><thead><tr><th scope="col">Key</th><th scope="col">Value</th>
    <th scope="col">From</th></tr></thead>
    <tbody>${values.map(
      (each) => html`<tr><th scope="row"><code>${each.key.slice(prefix.length)}</code></th>
      <td class="num">${String(each.value ?? "–")}</td><td><span class="source ${each.source}">${each.source}</span></td></tr>`,
    )}</tbody></table>
      </details>`;
}
