// What happened, in a line each: a fault came, a breaker opened because of it, a service went and came back.
import { html } from "./preact.js";
import { choose } from "./live.js";
import { bring } from "./parts.js";
import { useStore } from "./store.js";
import { reason, seconds, STATES, time } from "./words.js";

const TONES = { running: "good", starting: "off", draining: "warn", stopped: "bad", failed: "bad" };

function told(event) {
  const { name, edge } = event;
  if (name === "breaker.moved") {
    const { tone, word } = STATES[event.new] ?? STATES.none;
    const link = html`<button type="button" class="plain" onClick=${() => (choose(edge), bring("edge"))}>${edge.replace("→", " → ")}</button>`;
    return html`<span class=${tone}>${link} ${event.key === "edge" ? "" : `${event.key} `}<b>${word}</b>: ${reason(event.reason)}</span>`;
  }
  if (name === "fault.switched") {
    const by = { api: "", file: " by the config file", duration: ": its time is over" }[event.by];
    return html`<span class="fault"><b>${event.fault}</b> ${event.enabled ? "switched on" : "switched off"}${by}</span>`;
  }
  if (name === "service.moved")
    return html`<span
    class=${TONES[event.state]}>${event.service} <b>${event.state}</b>${event.reason ? `: ${event.reason}` : ""}</span>`;
  if (name === "config.rejected") {
    return html`<span class="bad"><b>The config file is wrong</b>, what was in force stays: ${[event.problems].flat().join("; ")}</span>`;
  }
  if (name === "loop.blocked") {
    return html`<span class="warn">${event.service} <b>held the event loop</b> for ${seconds(event.seconds)}: ${event.place}</span>`;
  }
  return html`<span class="warn"><b>The config file has changes that wait for a restart</b>: ${[event.needs_restart].flat().join(", ")}</span>`;
}

export function Story() {
  const { story } = useStore();
  return html`<section class="card story" aria-labelledby="story-title"><h2 id="story-title">What happened</h2>
    ${
      story.length
        ? html`<ol tabindex="0" aria-label="What happened, the latest first">${story.map(
            (event) => html`<li>
        <time class="num">${time(event.at)}</time>${told(event)}</li>`,
          )}</ol>`
        : html`<p class="empty small">Nothing yet. What breaks, opens and heals is told here, with its reason.</p>`
    }
  </section>`;
}
