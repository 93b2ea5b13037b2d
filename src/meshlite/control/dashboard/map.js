// The mesh, drawn: services as boxes, edges as lines, and in each line a switch, which is its breaker.
import { html, useEffect, useState } from "./preact.js";
import { choose } from "./live.js";
import { bring, Switch } from "./parts.js";
import { aged, set, useStore, useTicks } from "./store.js";
import { breakerOf, brief, effect, failed, hit, ms, percent, rate, spared, STATES, stateOf, where } from "./words.js";

// Where things are: in a row where there is room, else one below the other.
const WIDE = {
  view: [720, 262],
  size: [140, 122],
  users: [4, 52],
  orders: [290, 52],
  inventory: [576, 52],
  "users→orders": { from: [144, 96], to: [289, 96], label: [217, 18] },
  "orders→users": { from: [290, 134], to: [145, 134], label: [217, 180] },
  "orders→inventory": { from: [430, 115], to: [575, 115], label: [503, 34] },
};
const TALL = {
  view: [360, 694],
  size: [180, 122],
  users: [60, 4],
  orders: [60, 264],
  inventory: [60, 530],
  "users→orders": { from: [128, 126], to: [128, 262], label: [60, 176] },
  "orders→users": { from: [232, 264], to: [232, 128], label: [300, 176] },
  "orders→inventory": { from: [180, 386], to: [180, 528], label: [270, 438] },
};

export function MeshMap() {
  const { overview, chosen } = useStore();
  const [narrow, setNarrow] = useState(() => matchMedia("(max-width: 640px)").matches);
  useEffect(() => {
    const media = matchMedia("(max-width: 640px)");
    const look = () => setNarrow(media.matches);
    media.addEventListener("change", look);
    return () => media.removeEventListener("change", look);
  }, []);
  const place = narrow ? TALL : WIDE;
  const [width, height] = place.view;
  return html`<section class="card map" aria-labelledby="map-title">
    <div class="row"><h2 id="map-title">Who calls whom</h2><span class="space" /><span class="legend small" aria-hidden="true">
      ${["closed", "half_open", "open"].map(
        (state) => html`<span class=${STATES[state].tone}>
        <${Switch} state=${state} size=${28} />${STATES[state].word}</span>`,
      )}</span></div>
    <svg viewBox="0 0 ${width} ${height}" role="group" aria-label="Map of the mesh">
      ${overview.edges.map(
        (edge) => html`<${Edge} edge=${edge} at=${place[`${edge.caller}→${edge.callee}`]} tall=${narrow}
        chosen=${chosen.edge === `${edge.caller}→${edge.callee}`} key=${edge.caller + edge.callee} />`,
      )}
      ${overview.services.map(
        (service) => html`<${Service} service=${service} at=${place[service.name]} size=${place.size} beside=${narrow}
        faults=${overview.faults.filter((each) => each.enabled && each.service === service.name)} key=${service.name} />`,
      )}
    </svg>
    <details class="small"><summary>The same as a table</summary><${Table} overview=${overview} /></details>
  </section>`;
}

const onKey = (action) => (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  action();
};

function Service({ service, at: [x, y], size: [width, height], faults, beside }) {
  const up = service.state === "running";
  const tone = !up ? "bad" : service.ready ? "good" : "warn";
  const word = !up ? (service.reason === "killed" ? "killed" : service.state) : service.ready ? "running" : "not ready";
  const open = () => {
    set({ tab: "services", logs: { service: service.name, level: "info", event: "", list: null } });
    bring("panel");
  };
  const said = `${service.name}, ${word}, ${rate(service.rate)}, 99th percentile ${ms(service.p99_ms)}, ${percent(service.error_rate)} failed`;
  const struck = faults.map((each) => effect(each)).join("; ");
  return html`<g class="service ${tone} ${struck ? "struck" : ""}" role="button" tabindex="0"
    aria-label="${said}${struck ? `; fault: ${struck}` : ""}. Show its log"
      transform="translate(${x} ${y})" onClick=${open} onKeyDown=${onKey(open)}>
    <rect class="box" width=${width} height=${height} rx="10" />
    <rect class="side" width="5" height=${height - 20} x="0" y="10" rx="2.5" />
    <text class="name" x="16" y="25">${service.name}</text>
    <circle class="lamp" cx="20" cy="39" r="4" /><text class="word" x="29" y="43">${word}</text>
    ${word === "running" && html`<text class="port" x=${width - 12} y="43" text-anchor="end">:${new URL(service.url).port}</text>`}
    <line class="rule" x1="16" x2=${width - 12} y1="53" y2="53" />
    ${[
      ["requests", rate(service.rate)],
      ["p99", ms(service.p99_ms)],
      ["failed", percent(service.error_rate)],
    ].map(
      ([name, value], place) => html`<text class="key" x="16" y=${71 + 18 * place}>${name}</text>
        <text class="value ${name === "failed" && service.error_rate > 0.001 ? "hurt" : ""}" x=${width - 12} y=${71 + 18 * place}
          text-anchor="end">${value}</text>`,
    )}
    ${tags(faults).map(
      ([text, title], place) => html`<g class="fault" key=${text}
      transform=${beside ? `translate(${width + 6} ${46 + 30 * place})` : `translate(0 ${height + 7 + 30 * place})`}>
      <title>${title}</title><rect width=${beside ? 112 : width} height="25" rx="6" />
      ${!beside && html`<path class="bolt" d="M13 5l-6 10h5l-2 7 7-10h-5l2-7z" />`}<text x=${beside ? 6 : 24} y="17"
        ...${text.length > 16 ? { textLength: beside ? 100 : 110, lengthAdjust: "spacingAndGlyphs" } : {}}>${text}</text></g>`,
    )}
  </g>`;
}

// There is room for three: a fault each, with whom it strikes if not all, or how many more there are.
function tags(faults) {
  const whom = (rule) => (rule.caller ? ` → ${rule.caller}` : "");
  const told = faults.map((each) => [`${brief(each)}${whom(each)}`, `${each.name}: ${effect(each)}`]);
  return told.length < 4 ? told : [...told.slice(0, 2), [`+ ${told.length - 2} more`, told.slice(2).map(([, title]) => title).join("\n")]];
}

function Edge({ edge, at, tall, chosen }) {
  const name = `${edge.caller}→${edge.callee}`;
  const state = stateOf(edge);
  const { tone, word } = STATES[state];
  const breaker = breakerOf(edge);
  const { from, to, label } = at;
  const middle = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2];
  const angle = (Math.atan2(to[1] - from[1], to[0] - from[0]) * 180) / Math.PI;
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const half = length / 2;
  const flow = edge.rate === 0 ? "" : edge.rate < 5 ? "slow" : edge.rate < 25 ? "mid" : "fast";
  const partly = spared(edge); // a route's breaker is nothing to the other routes
  const blocked = !partly && (state === "open" || state === "forced_open");
  const lifted = { open: -34, forced_open: -34, half_open: -15 }[state] ?? 0;
  const pick = () => {
    choose(name);
    bring("edge");
  };
  const said = `${edge.caller} calls ${edge.callee}: breaker ${word}${where(edge)}, ${rate(edge.rate)}, 99th percentile ${ms(edge.p99_ms)}, ${percent(failed(edge))} failed, ${percent(edge.refused_rate)} refused`;
  const wide = tall ? (partly ? 130 : 112) : state === "open" || partly ? 146 : 120;
  return html`<g class="edge ${tone} ${partly ? "" : state} ${chosen ? "chosen" : ""}" role="button" tabindex="0" aria-pressed=${chosen}
    aria-label=${said} data-edge=${name}
      onClick=${pick} onKeyDown=${onKey(pick)}>
    <g transform="translate(${middle[0]} ${middle[1]}) rotate(${angle})">
      <rect class="reach" x=${-half} y="-16" width=${length} height="32" rx="8" />
      <path class="line" d="M${-half} 0H-17" />
      <path class="line beyond" d="M17 0H${half - 9}" />
      <path class="arrow" d="M${half - 10} -5.5L${half} 0L${half - 10} 5.5z" />
      ${flow && html`<path class="flow ${flow}" d="M${-half} 0H${blocked ? -19 : half - 10}" />`}
      <g transform=${Math.abs(angle) > 91 ? "scale(1 -1)" : ""}><path class="blade" d="M-17 0H17" transform="rotate(${lifted} -17 0)" /></g>
      <circle class="contact" cx="-17" r="4" /><circle class="contact" cx="17" r="4" />
    </g>
    <g transform="translate(${label[0]} ${label[1]})">
      <rect class="tag" x=${-wide / 2} y="-13" width=${wide} height="22" rx="11" />
      <text class="word" y="2.5" text-anchor="middle">${partly ? `${hit(edge).length} of ${edge.breakers.length} ${word}` : word}${state === "open" && !partly && breaker.retry_after !== null ? html`<${ProbeIn} left=${breaker.retry_after} short=${tall} />` : ""}${
        state === "half_open" && !partly ? ` ${breaker.probe_successes}/${edge.policy.breaker.success_threshold}` : ""
      }</text>
      <text class="value" y="26" text-anchor="middle">${rate(edge.rate)} · p99 ${ms(edge.p99_ms)}</text>
      <text class="value ${edge.error_rate > 0.001 ? "hurt" : ""}" y="43" text-anchor="middle">${
        edge.refused_rate > failed(edge) ? `${percent(edge.refused_rate)} refused` : `${percent(failed(edge))} failed`
      }</text>
    </g>
  </g>`;
}

function ProbeIn({ left, short }) {
  useTicks(250);
  const now = Math.ceil(left - aged());
  if (now <= 0) return " · probe due";
  return short ? ` · ${now} s` : ` · probe in ${now} s`;
}

function Table({ overview }) {
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Tables"><table><caption>Services</caption><thead><tr>
    <th scope="col">Service</th><th scope="col">State</th><th scope="col">Requests</th><th scope="col">p99</th><th scope="col">Failed</th>
    <th scope="col">Faults</th></tr></thead>
    <tbody>${overview.services.map(
      (each) => html`<tr><th scope="row">${each.name}</th><td>${each.state}${each.ready ? "" : ", not ready"}</td>
      <td class="num">${rate(each.rate)}</td><td class="num">${ms(each.p99_ms)}</td><td class="num">${percent(each.error_rate)}</td>
      <td>${
        overview.faults
          .filter((fault) => fault.enabled && fault.service === each.name)
          .map((fault) => effect(fault))
          .join("; ") || "none"
      }</td></tr>`,
    )}</tbody></table>
  <table><caption>Edges</caption><thead><tr><th scope="col">Edge</th><th scope="col">Breaker</th><th scope="col">Calls</th><th scope="col">p99</th>
    <th scope="col">Failed</th><th scope="col">Refused</th></tr></thead>
    <tbody>${overview.edges.map(
      (each) => html`<tr><th scope="row">${each.caller} → ${each.callee}</th><td>${STATES[stateOf(each)].word}${where(each)}</td>
      <td class="num">${rate(each.rate)}</td><td class="num">${ms(each.p99_ms)}</td><td class="num">${percent(failed(each))}</td>
      <td class="num">${percent(each.refused_rate)}</td></tr>`,
    )}</tbody></table></div>`;
}
