// The mesh in a sentence, for whoever looks for the first time: the worst first, why, and what comes of it.
import { breakerOf, effect, FELT, ms, percent, rate, reason, stateOf } from "./words.js";

// [tone, headline, what it means, its cause]
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
    return [
      "warn",
      `${half[2]} is being tried again.`,
      `Probes get in, one at a time: ${breaker.probe_successes} of ${half[0].policy.breaker.success_threshold} have succeeded. One that fails opens the breaker again.`,
      because && `Still on: ${because}.`,
    ];
  }
  if (down.length)
    return [
      "bad",
      `${gone[0].toUpperCase()}${gone.slice(1)}.`,
      asked
        ? "Whoever calls it gets no connection, until a breaker opens and spares the trying."
        : "Nobody asks anything, so nobody notices. Send traffic, and see who does.",
      "",
    ];
  const failing = edges.filter(([edge]) => edge.error_rate > 0.001).sort(([a], [b]) => b.error_rate - a.error_rate)[0];
  if (on.length && asked)
    return [
      "warn",
      `${because[0].toUpperCase()}${because.slice(1)}.`,
      failing
        ? `${percent(failing[0].error_rate)} of the calls ${failing[2]} failed in the last ten seconds. Enough of them in a row open the breaker.`
        : "Nobody has been hurt so far.",
      "",
    ];
  if (on.length)
    return [
      "warn",
      `${because[0].toUpperCase()}${because.slice(1)}.`,
      "Nobody asks anything, so nobody notices. Send traffic, and see who does.",
      "",
    ];
  if (!asked)
    return [
      "idle",
      "All is well, and nobody asks anything.",
      "Send traffic, then break something: the map shows where it hurts, and the panel why.",
      "",
    ];
  if (failing)
    return [
      "warn",
      `${failing[2]} is getting over it.`,
      `Nothing is switched on any more; of its calls in the last ten seconds ${percent(failing[0].error_rate)} failed.`,
      "",
    ];
  const slowest = Math.max(...overview.services.map((each) => each.p99_ms ?? 0));
  return [
    "good",
    "All is well.",
    `${rate(overview.services.reduce((sum, each) => sum + each.rate, 0))} requests, none failed; 99 of 100 take no more than ${ms(slowest)}.`,
    "",
  ];
}
