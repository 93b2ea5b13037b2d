// Numbers and states in words. One place, so that the map, the panels and the headline say the same.

export const rate = (value) => `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)}/s`;

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
}

export function percent(share) {
  if (!share) return "0 %";
  return `${share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
}

export const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

export function span(value) {
  if (value < 60) return `${Math.round(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

export const time = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hourCycle: "h23" }); // midnight is 00, not 24

// A breaker's state: its word, how it is drawn (colour and shape go together), and what it means for a call.
export const STATES = {
  closed: { word: "closed", tone: "good", means: "Calls go through." },
  open: { word: "open", tone: "bad", means: "Every call is refused at once; nothing is sent." },
  half_open: { word: "half-open", tone: "warn", means: "Only probes get in, to see whether it works again." },
  forced_open: { word: "forced open", tone: "bad", means: "Every call is refused until a hand changes that." },
  disabled: { word: "disabled", tone: "off", means: "Calls go through, and nothing is counted." },
  metrics_only: { word: "metrics only", tone: "off", means: "It counts, and never refuses." },
  none: { word: "no breaker", tone: "off", means: "The policy switches the breaker off." },
};
const WORST = ["forced_open", "open", "half_open", "metrics_only", "disabled", "closed"];

export const worst = (states) => WORST.find((each) => states.includes(each));

// The breaker that speaks for an edge: where there is one for each route, the worst of them.
export function breakerOf(edge) {
  return [...edge.breakers].sort((a, b) => WORST.indexOf(a.state) - WORST.indexOf(b.state))[0];
}

export function stateOf(edge) {
  if (!edge.policy.breaker) return "none";
  return breakerOf(edge)?.state ?? (edge.mode === "auto" ? "closed" : edge.mode);
}

// Why an edge's breaker opens for nothing, where it does not: how it is switched off, as a part of a sentence.
export function unguarded(edge) {
  return { none: "switched off by the policy", disabled: "switched off by hand", metrics_only: "set to count only, by hand" }[stateOf(edge)];
}

// A breaker's reason as a sentence.
export function reason(text) {
  if (!text || text === "new") return "As it has been since the start.";
  const said = text.replace(/^set to (\w+) by hand/, (_, mode) => `set to ${STATES[mode]?.word ?? "automatic"} by hand`);
  return said[0].toUpperCase() + said.slice(1) + (/[.!]$/.test(said) ? "" : ".");
}

export const OUTCOMES = {
  ok: { word: "answered", tone: "good" },
  error: { word: "answered with an error", tone: "bad" },
  injected: { word: "struck by a fault", tone: "bad" },
  timeout: { word: "no answer in time", tone: "late" },
  unreachable: { word: "no connection, or it broke", tone: "bad" },
  circuit_open: { word: "refused by the breaker", tone: "warn" },
  bulkhead_full: { word: "refused by the bulkhead", tone: "warn2" },
  retry_budget: { word: "refused by the retry budget", tone: "warn3" },
  overloaded: { word: "turned away: too many", tone: "warn2" },
  cancelled: { word: "given up by the caller", tone: "off" },
};
export const outcome = (name) => OUTCOMES[name] ?? { word: name.replaceAll("_", " "), tone: "bad" };

// What the mesh's users notice where an edge's calls are refused or fail.
export const FELT = {
  "users→orders": "A user asked for with orders comes without them, and says so (degraded).",
  "orders→inventory": "Lists of orders come without the products' details (degraded); new orders are refused with 503.",
  "orders→users": "New orders are refused with 503, for nobody knows whether their buyer exists.",
};

// What a fault does, in a few words.
export function effect(rule) {
  const share = rule.probability !== undefined && rule.probability < 1 ? ` ${percent(rule.probability)} of the time` : "";
  const long = rule.seconds === undefined ? "" : seconds(rule.seconds).replace(".0 s", " s");
  const what = {
    delay: `${long}${rule.jitter ? ` ± ${seconds(rule.jitter)}` : ""} slow`,
    error: `answers ${rule.status ?? Object.keys(rule.statuses ?? {}).join(" or ")}`,
    reset: rule.phase === "response" ? "loses its answers" : "resets connections",
    hang: "never answers",
    truncate: "answers by half",
    throttle: `sends ${rule.bytes_per_second} bytes a second`,
    corrupt: "answers nonsense",
    unready: "says it is not ready",
    block: `holds the loop for ${long}`,
  }[rule.kind];
  const whom = rule.caller ? ` to ${rule.caller}` : "";
  return `${what}${share}${whom}`;
}

// The same where there is little room.
export function brief(rule) {
  const share = rule.probability !== undefined && rule.probability < 1 ? `${percent(rule.probability)} ` : "";
  const what = {
    delay: `${seconds(rule.seconds ?? 0).replace(".0 s", " s")} slow`,
    error: `${rule.status ?? "errors"}`,
    reset: rule.phase === "response" ? "lost answers" : "resets",
    hang: "hangs",
    truncate: "half answers",
    throttle: "trickles",
    corrupt: "nonsense",
    unready: "not ready",
    block: "blocks",
  }[rule.kind];
  return share + what;
}
