// What is above and below everything: the link to the mesh, how it fares in a sentence, traffic to try, the command line.
import { html, useState } from "./preact.js";
import { hasToken, unlock } from "./api.js";
import { refresh } from "./live.js";
import { meshTime, set, state, useStore } from "./store.js";
import { Act, Left } from "./parts.js";
import { verdict } from "./verdict.js";
import { rate } from "./words.js";

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
    ${
      overview &&
      link !== "locked" &&
      html`${
        !hasToken() && // a link carries no token
        html`<a class="quiet wide" href="/docs">API</a><a class="quiet wide" href="/metrics">Metrics</a>`
      }
      <${Act} action=${RESET} />`
    }
    <button type="button" class="button icon" onClick=${turn} aria-label="Colours: ${THEMES[theme]}"
      title="Colours: ${THEMES[theme]}">${SIGNS[theme]}</button>
  </header>`;
}

// Of many keys the first few, and how many more.
const listed = (keys) => (keys.length > 4 ? `${keys.slice(0, 3).join(", ")} and ${keys.length - 3} more` : keys.join(", "));

export function Banner() {
  const { link, notice, problems, deferred } = useStore();
  const text = link === "lost" ? "The mesh does not answer. What you see is how it was; asking again each second." : notice;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
  return html`<div role="status" class="banner-place">${
    problems.length > 0 &&
    html`<div class="banner bad"><p><b>The config file is wrong:</b> ${problems[0]}${more}. What was in force before stays.</p></div>`
  }${
    deferred.length > 0 && html`<div class="banner"><p><b>Waits for a restart:</b> ${listed(deferred)}</p></div>`
  }</div><div role="status" class="banner-place ${link}">${
    text &&
    html`<div class="banner ${link}"><p>${text}</p>${
      link === "live" && html`<button type="button" class="button small" onClick=${() => set({ notice: "" })}>Good</button>`
    }</div>`
  }</div>`;
}

export function Verdict() {
  const { overview } = useStore();
  const [tone, head, text, also] = verdict(overview);
  return html`<section class="verdict ${tone}" aria-label="How the mesh fares">
    <div class="said"><h2 aria-live="polite">${head}</h2><p>${text}${also ? html` <strong>${also}</strong>` : ""}</p></div>
    <${TryIt} />
  </section>`;
}

const traffic = (rate = 20, seconds = 60) => ({ method: "PUT", path: "/api/load", body: { rate, seconds } });

// Ours, for what is of no use while nobody asks anything. Somebody does whose requests came in these last seconds; those in
// which our own traffic ended, and took its orders back, tell nothing.
export function audience() {
  const { overview, asked, trafficEnded } = state;
  const others = asked > meshTime() - 3 && asked > trafficEnded + 2.5;
  return overview.load.running || others ? [] : [traffic()];
}

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
      ${
        load.running
          ? html`<span class="small">${rate(load.rate)}, <${Left} left=${load.remaining} /> left</span>`
          : html`<select aria-label="Requests a second" value=${asked.rate}
          onChange=${pick("rate")}>${[5, 20, 50].map((each) => option(each, `${each}/s`))}</select>
          <select aria-label="For how long" value=${asked.seconds}
            onChange=${pick("seconds")}>${[
              [30, "30 s"],
              [60, "1 min"],
              [300, "5 min"],
            ].map(([each, text]) => option(each, text))}</select>`
      }
    </div>
    ${
      load.sent > 0
        ? html`<div class="mix" aria-hidden="true">${["ok", "degraded", "refused", "failed"].map(
            (kind) => html`<i class=${kind}
        style=${{ flexGrow: load[kind] / total }} />`,
          )}</div>
        <p class="small key num"><b>${load.sent}</b> sent${["ok", "degraded", "refused", "failed"].map(
          (kind) => html`<span
          class=${kind}>${load[kind]} ${kind === "ok" ? "whole" : kind}</span>`,
        )}</p>`
        : html`<p class="small">Reads and orders, as from a browser. It stops by itself.</p>`
    }
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
    <p class="hidden" role="status">${command && command.state !== "shown" ? `${said[command.state]} ${command.said}` : ""}</p>
    <p class="small">${command ? html`<b>${said[command.state]}</b> ${command.said}` : html`<b>By hand:</b> each button shows here the command that does the same.`}</p>
    ${
      command &&
      html`<code tabindex="0">${command.text}</code>
      <button type="button" class="button small" onClick=${take}>${copied === command.text ? "Copied" : "Copy"}</button>`
    }
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
    <form class="row" onSubmit=${open}>
      <label>Token <input type="password" autocomplete="off" required value=${given} onInput=${(event) => give(event.target.value)} /></label>
    <button class="button primary">Open</button></form><p role="alert" class="wrong">${wrong && "That is not it."}</p></section>`;
}
