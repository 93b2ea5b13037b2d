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

export const capital = (text) => text[0].toUpperCase() + text.slice(1);

export const time = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hourCycle: "h23" }); // midnight is 00, not 24

// A breaker's state: its word, how it is drawn (colour and shape go together), and what it means for a call.
export const STATES = {
  closed: { word: "closed", tone: "good", means: "Calls go through." },
  open: { word: "open", tone: "bad", means: "Every call is refused at once; nothing is sent." },
  half_open: { word: "half-open", tone: "warn", means: "Only probes get in, to see whether it works again." },
  forced_open: { word: "forced open", tone: "bad", means: "Every call is refused until a hand changes that." },
  disabled: { word: "disabled", tone: "off", means: "Calls go through, and nothing is counted." },
  metrics_only: { word: "metrics only", tone: "off", means: "It counts, and never refuses." },
  bare: { word: "closed, no rule", tone: "off", means: "Calls go through: its policy has no rule that opens it." },
  none: { word: "no breaker", tone: "off", means: "The policy switches the breaker off." },
};
const WORST = ["forced_open", "open", "half_open", "metrics_only", "disabled", "closed"];

export const worst = (states) => WORST.find((each) => states.includes(each));

// The breaker that speaks for an edge: where there is one for each route, the worst of them.
export function breakerOf(edge) {
  const order = (a, b) => WORST.indexOf(a.state) - WORST.indexOf(b.state) || b.consecutive_failures - a.consecutive_failures;
  return [...edge.breakers].sort(order)[0];
}

export function stateOf(edge) {
  if (!edge.policy.breaker) return "none";
  const state = breakerOf(edge)?.state ?? (edge.mode === "auto" ? "closed" : edge.mode);
  return state === "closed" && edge.policy.breaker.max_failures === null ? "bare" : state;
}

// Where each route has a breaker of its own: the keys of those that are open or half-open, as the worst of them is.
export function hit(edge) {
  const state = stateOf(edge);
  if (edge.policy.breaker?.per !== "route" || !["open", "half_open"].includes(state)) return [];
  return edge.breakers.filter((each) => each.state === state).map((each) => each.key);
}

export const where = (edge) => (hit(edge).length ? ` for ${hit(edge).join(" and ")}` : "");

// How many routes get through all the same.
export function spared(edge) {
  const free = hit(edge).length && edge.breakers.filter((each) => each.state === "closed").length;
  return free ? `${free} of ${edge.breakers.length} routes ${free > 1 ? "go" : "goes"} through.` : "";
}

// What is to be done where a tripped breaker waits for calls, and none come. Of a route it is known only by its age.
export function unprobed(edge) {
  const { state, probes, retry_after: left, age } = breakerOf(edge);
  const waits = state === "half_open" ? !probes : left <= 0;
  const still = !edge.rate || (hit(edge).length && age > 10);
  return waits && still ? "Nobody asks anything here, so nothing probes it: send traffic, or Reset." : "";
}

// The share of an edge's calls that were made, and failed; those that were refused are another.
export const failed = (edge) => Math.max(0, edge.error_rate - edge.refused_rate);

const UNGUARDED = {
  none: "switched off by the policy",
  disabled: "switched off by hand",
  metrics_only: "set to count only, by hand",
  bare: "left without a rule by the policy",
};

// Why an edge's breaker opens for nothing, where that is so, as a part of a sentence.
export const unguarded = (edge) => UNGUARDED[stateOf(edge)];

export const useless = (edge) => `Its breaker is ${unguarded(edge)}, and opens for nothing.`;

// A breaker's reason as a sentence.
export function reason(text) {
  if (!text || text === "new") return "As it has been since the start.";
  const said = text.replace(/^set to (\w+) by hand/, (_, mode) => `set to ${STATES[mode]?.word ?? "automatic"} by hand`);
  return capital(said) + (/[.!]$/.test(said) ? "" : ".");
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

// What the mesh's users notice where an edge's calls are refused or fail, by the route.
const FELT = {
  "users→orders": { GET: "a user asked for with orders comes without them, and says so (degraded)" },
  "orders→inventory": {
    GET: "lists of orders come without the products' details (degraded)",
    PUT: "new orders are refused with 503",
  },
  "orders→users": { GET: "new orders are refused with 503, for nobody knows whether their buyer exists" },
};

// The same as a sentence, of the routes that are named; of all where none is.
export function felt(edge, keys = []) {
  const found = Object.entries(FELT[`${edge.caller}→${edge.callee}`] ?? {}).filter(
    ([method]) => !keys.length || keys.some((key) => key.startsWith(`${method} `)),
  );
  return found.length ? `${capital(found.map(([, text]) => text).join("; "))}.` : "";
}

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
