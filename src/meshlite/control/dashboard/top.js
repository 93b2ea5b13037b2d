// What is above and below everything: the link to the mesh, how it fares in a sentence, traffic to try, the command line.
import { html, useState } from "./preact.js";
import { unlock } from "./api.js";
import { refresh } from "./live.js";
import { set, state, useStore } from "./store.js";
import { Act, Left } from "./parts.js";
import { breakerOf, effect, FELT, ms, percent, rate, reason, stateOf } from "./words.js";

const THEMES = { auto: "Light or dark as the system", light: "Light", dark: "Dark" };
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };
let theme = localStorage.getItem("meshlite-theme") ?? "auto";
const dress = () => document.documentElement.setAttribute("data-theme", theme);
dress();

export const RESET = {
  label: "Put all back",
  requests: [{ method: "POST", path: "/api/reset" }],
  title: "All faults off, all breakers closed, all services started",
};

export function Top() {
  const { link, overview } = useStore();
  const [, draw] = useState();
  const turn = () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    localStorage.setItem("meshlite-theme", theme);
    dress();
    draw({});
    set({ dressed: theme }); // charts take their colours when they are drawn
  };
  const words = { live: "live", lost: "no answer", connecting: "connecting", locked: "locked" }[link];
  return html`<header class="top">
    <h1><img src="/page/icon.svg" alt="" width="26" height="26" />meshlite</h1>
    <span class="link ${link}" title="The link to the mesh">${words}</span>
    <span class="space" />
    ${overview && link !== "locked" && html`<a class="quiet wide" href="/docs">API</a><a class="quiet wide" href="/metrics">Metrics</a>
      <${Act} action=${RESET} />`}
    <button type="button" class="button icon" onClick=${turn} aria-label="Colours: ${THEMES[theme]}" title="Colours: ${THEMES[theme]}">${SIGNS[theme]}</button>
  </header>`;
}

export function Banner() {
  const { link, notice } = useStore();
  const text = link === "lost" ? "The mesh does not answer. What you see is how it was; asking again each second." : notice;
  return html`<div role="status" class="banner-place">${
    text && html`<div class="banner ${link}"><p>${text}</p>${
      link === "live" && html`<button type="button" class="button small" onClick=${() => set({ notice: "" })}>Good</button>`
    }</div>`
  }</div>`;
}

// How the mesh fares: the worst first, in words.
export function verdict(overview) {
  const down = overview.services.filter((each) => each.state !== "running");
  const gone = down.map((each) => `${each.name} ${each.reason === "killed" ? "was killed" : `is ${each.state}`}`).join(", ");
  const on = overview.faults.filter((each) => each.enabled);
  const because = on.map((each) => `${each.rule.service} ${effect(each.rule)} (${each.name})`).join(" and ");
  const edges = overview.edges.map((edge) => [edge, stateOf(edge), `${edge.caller} → ${edge.callee}`]);
  const asked = Math.max(0, ...overview.services.map((each) => each.rate));
  // Of several edges in one state, that one whose callee is known to be in trouble.
  const troubled = new Set([...down.map((each) => each.name), ...on.map((each) => each.rule.service)]);
  const first = (...states) => {
    const found = edges.filter(([, state]) => states.includes(state));
    return found.find(([edge]) => troubled.has(edge.callee)) ?? found[0];
  };
  if (overview.state !== "running") return ["warn", `The mesh is ${overview.state}.`, "What is under way may finish.", ""];
  const hit = first("open") ?? first("forced_open");
  if (hit) {
    const [edge, state, name] = hit;
    const why = state === "open" ? reason(breakerOf(edge).reason) : "A hand did that.";
    const also = down.length ? `Cause: ${gone}.` : because && `Cause: ${because}.`;
    return ["bad", `The breaker ${name} is open.`, `${why} ${FELT[name.replaceAll(" ", "")] ?? ""}`, also];
  }
  const half = first("half_open");
  if (half) {
    const breaker = breakerOf(half[0]);
    return ["warn", `${half[2]} is being tried again.`, `Probes get in, one at a time: ${breaker.probe_successes} of ${half[0].policy.breaker.success_threshold} have succeeded. One that fails opens the breaker again.`, because && `Still on: ${because}.`];
  }
  if (down.length) return ["bad", `${gone[0].toUpperCase()}${gone.slice(1)}.`, asked ? "Whoever calls it gets no connection, until a breaker opens and spares the trying." : "Nobody asks anything, so nobody notices. Send traffic, and see who does.", ""];
  const failing = edges.filter(([edge]) => edge.error_rate > 0.001).sort(([a], [b]) => b.error_rate - a.error_rate)[0];
  if (on.length && asked) return ["warn", `${because[0].toUpperCase()}${because.slice(1)}.`, failing ? `${percent(failing[0].error_rate)} of the calls ${failing[2]} failed in the last ten seconds. Enough of them in a row open the breaker.` : "Nobody has been hurt so far.", ""];
  if (on.length) return ["warn", `${because[0].toUpperCase()}${because.slice(1)}.`, "Nobody asks anything, so nobody notices. Send traffic, and see who does.", ""];
  if (!asked) return ["idle", "All is well, and nobody asks anything.", "Send traffic, then break something: the map shows where it hurts, and the panel why.", ""];
  if (failing) return ["warn", `${failing[2]} is getting over it.`, `Nothing is switched on any more; of its calls in the last ten seconds ${percent(failing[0].error_rate)} failed.`, ""];
  const slowest = Math.max(...overview.services.map((each) => each.p99_ms ?? 0));
  return ["good", "All is well.", `${rate(overview.services.reduce((sum, each) => sum + each.rate, 0))} requests, none failed; 99 of 100 take no more than ${ms(slowest)}.`, ""];
}

export function Verdict() {
  const { overview } = useStore();
  const [tone, head, text, also] = verdict(overview);
  return html`<section class="verdict ${tone}" aria-label="How the mesh fares">
    <div class="said"><h2 aria-live="polite">${head}</h2><p>${text}${also ? html` <strong>${also}</strong>` : ""}</p></div>
    <${TryIt} />
  </section>`;
}

export const traffic = (rate = 20, seconds = 60) => ({ method: "PUT", path: "/api/load", body: { rate, seconds } });

function TryIt() {
  const { overview } = useStore();
  const [asked, ask] = useState({ rate: 20, seconds: 60 });
  const load = overview.load;
  const total = Math.max(1, load.sent - load.in_flight);
  const action = load.running
    ? { label: "Stop traffic", requests: [{ method: "DELETE", path: "/api/load" }] }
    : { label: "Send traffic", requests: [traffic(asked.rate, asked.seconds)] };
  const option = (value, text) => html`<option value=${value}>${text}</option>`;
  const pick = (key) => (event) => ask({ ...asked, [key]: Number(event.target.value) });
  return html`<div class="try" role="group" aria-label="Try it: traffic">
    <div class="row">
      <${Act} action=${action} kind=${load.running ? "" : "primary"}>${load.running ? "■ Stop traffic" : "▶ Send traffic"}</${Act}>
      ${load.running
        ? html`<span class="small">${rate(load.rate)}, <${Left} left=${load.remaining} /> left</span>`
        : html`<select aria-label="Requests a second" value=${asked.rate} onChange=${pick("rate")}>${[5, 20, 50].map((each) => option(each, `${each}/s`))}</select>
          <select aria-label="For how long" value=${asked.seconds} onChange=${pick("seconds")}>${[[30, "30 s"], [60, "1 min"], [300, "5 min"]].map(([each, text]) => option(each, text))}</select>`}
    </div>
    ${load.sent > 0
      ? html`<div class="mix" aria-hidden="true">${["ok", "degraded", "refused", "failed"].map((kind) => html`<i class=${kind} style=${{ flexGrow: load[kind] / total }} />`)}</div>
        <p class="small key num"><b>${load.sent}</b> sent${["ok", "degraded", "refused", "failed"].map((kind) => html`<span class=${kind}>${load[kind]} ${kind === "ok" ? "whole" : kind}</span>`)}</p>`
      : html`<p class="small">Reads and orders, as from a browser. It stops by itself.</p>`}
  </div>`;
}

export function CommandLine() {
  const { command } = useStore();
  const [copied, copy] = useState("");
  const take = async () => {
    await navigator.clipboard.writeText(command.text);
    copy(command.text);
  };
  const said = { shown: "does the same as", going: "under way:", done: "done:", failed: "not done:" };
  return html`<footer class="command ${command?.state ?? ""}" aria-label="The same by hand">
    <p class="small" role="status">${command ? html`<b>${said[command.state]}</b> ${command.said}` : html`<b>By hand:</b> each button shows here the command that does the same.`}</p>
    ${command && html`<code tabindex="0">${command.text}</code><button type="button" class="button small" onClick=${take}>${copied === command.text ? "Copied" : "Copy"}</button>`}
  </footer>`;
}

export function Login() {
  const { wrong } = useStore();
  const [given, give] = useState("");
  const open = (event) => {
    event.preventDefault();
    unlock(given);
    set({ wrong: false });
    refresh().then(() => set({ wrong: state.link === "locked" }));
  };
  return html`<section class="card login"><h2>This mesh wants its token</h2>
    <p>It is <code>control.token</code> in the config. It stays in this tab, until that is closed.</p>
    <form class="row" onSubmit=${open}><label>Token <input type="password" autocomplete="off" required value=${given} onInput=${(event) => give(event.target.value)} /></label>
    <button class="button primary">Open</button></form><p role="alert" class="wrong">${wrong && "That is not it."}</p></section>`;
}
