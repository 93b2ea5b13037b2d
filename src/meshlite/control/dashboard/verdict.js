// The mesh in a sentence, for whoever looks for the first time: the worst first, why, and what comes of it.
import { breakerOf, capital, effect, failed, felt, hit, ms, percent, rate, reason, spared, stateOf, unguarded, unprobed, useless, where } from "./words.js";

const TRIPPED = ["open", "forced_open", "half_open"]; // the worst first
const SLOW = 1000; // milliseconds that a person notices
const QUIET = "Nobody asks anything, so nobody notices. Send traffic, and see who does.";
const highest = (found, key) => [...found].sort((a, b) => (b[key] ?? 0) - (a[key] ?? 0))[0];
const called = (edge) => `${edge.caller} → ${edge.callee}`;

const sentences = (...found) => found.filter(Boolean).join(" ");

const gone = (services) => services.map((each) => `${each.name} ${each.reason === "killed" ? "was killed" : `is ${each.state}`}`);

// Faults in words; of more than three only how many.
const because = (faults) =>
  faults.length > 3
    ? `${faults.length} faults`
    : faults.map((each) => `${each.service} ${effect(each)} (${each.name})`).join(" and ");

// Whether a fault may be the cause of anything. Where it only says that it is not ready, nobody counts.
const strikes = (fault) => !fault.warnings.length && (fault.hits > 0 || fault.kind === "unready");

// What is wrong just now, and whether it lies behind an open edge: what a hand opened has no other cause.
function causes(edge, state, down, on) {
  const ours = (name) => state === "open" && name === edge.callee;
  const behind = ({ kind, service, caller }) =>
    (state === "open" && kind === "block") || (ours(service) && (caller ?? edge.caller) === edge.caller);
  const said = (hit) => [...gone(down.filter((each) => ours(each.name) === hit)), because(on.filter((each) => behind(each) === hit))];
  const line = (word, found) => (found ? `${word}: ${found}.` : "");
  return [true, false].map((hit) => line(hit ? "Cause" : "Also", said(hit).filter(Boolean).join(" and "))).join(" ").trim();
}

// The breakers of these edges that nobody lets open, in a sentence.
function off(edges) {
  const found = edges.filter(unguarded);
  const bare = found.some((edge) => stateOf(edge) === "bare") ? " or without a rule" : "";
  if (found.length > 1) return `The breakers ${found.map(called).join(" and ")} are switched off${bare}, and open for nothing.`;
  return found.map((edge) => `The breaker ${called(edge)} is ${unguarded(edge)}, and opens for nothing.`).join("");
}

// What failures of an edge's calls come to.
function threat(edge) {
  return unguarded(edge) ? useless(edge) : "Enough of them in a row open the breaker.";
}

// The breaker of an edge that closed so lately that calls it refused are still counted, and that fares well since; of
// several the last.
function again(edge) {
  const moved = edge.breakers.filter((each) => each.reason !== "new" && !each.consecutive_failures);
  return stateOf(edge) === "closed" && edge.outcomes.circuit_open && moved.sort((a, b) => a.age - b.age)[0];
}

// How many of an edge's calls came to nothing, and how; what was refused until the breaker closed threatens nothing.
function lost(edge) {
  const back = again(edge);
  const found = [
    [failed(edge), "failed"],
    [edge.refused_rate, `were refused${back ? " meanwhile" : ""}`],
  ].filter(([share]) => share > 0.001);
  const said = found.map(([share, word], place) => `${percent(share)}${place ? "" : ` of the calls ${called(edge)}`} ${word}`);
  return `${said.join(" and ")} in the last ten seconds.${back || failed(edge) <= 0.001 ? "" : ` ${threat(edge)}`}`;
}

// Who is hurt: on an edge, at a service by whoever asks it, or by the time it takes. None of it where nobody is.
function harm({ services, edges, load }, on) {
  const hurt = edges.filter((each) => failed(each) > 0.001 && !again(each)); // what has healed hides no other
  const edge = highest(hurt.length ? hurt : edges, "error_rate");
  const lose = (each) => each.rate * each.error_rate;
  const failing = services.reduce((most, each) => (lose(each) > lose(most) ? each : most)); // not one bad answer of one
  const slow = highest(services, "p99_ms");
  const found = [];
  if (edge.error_rate > 0.001) found.push(lost(edge));
  if (failing.error_rate > 0.001) found.push(`${percent(failing.error_rate)} of the requests to ${failing.name} failed in the last ten seconds.`);
  if (slow.p99_ms >= SLOW) found.push(`1 of 100 requests to ${slow.name} takes about ${ms(slow.p99_ms)} or longer.`);
  const bad = load.failed + load.refused;
  if (!found.length && on.length && load.running && bad) found.push(`${bad} of the ${load.sent} requests sent had no good answer.`);
  return { edge, failing, slow, text: found.join(" ") };
}

function broken(edge, state, down, on) {
  const why = state === "open" ? reason(breakerOf(edge).reason) : "A hand did that.";
  const waits = state === "open" && unprobed(edge);
  const text = sentences(why, spared(edge), felt(edge, hit(edge)), waits);
  return ["bad", `The breaker ${called(edge)} is open${where(edge)}.`, text, causes(edge, state, down, on)];
}

function tried(edge, on) {
  const done = `${breakerOf(edge).probe_successes} of the ${edge.policy.breaker.success_threshold} that close it have succeeded`;
  const said = `Only single calls get in, as probes: ${done}. One that fails opens it again.`;
  const text = sentences(said, spared(edge), unprobed(edge));
  return ["warn", `The breaker ${called(edge)} is half-open${where(edge)}.`, text, on.length ? `Still on: ${because(on)}.` : ""];
}

// Nothing is stopped or open, and no fault strikes.
function calm(overview, { edge, failing, slow, text }, idle) {
  const none = idle.length ? "" : " No fault is on now.";
  if (edge.error_rate > 0.001) {
    const back = again(edge);
    if (back) return ["good", `The breaker ${called(edge)} has closed again.`, `${reason(back.reason)} ${text}${none}`, ""];
    return ["warn", `Calls ${called(edge)} ${failed(edge) > 0.001 ? "have failed" : "were refused"}.`, `${text}${none}`, ""];
  }
  if (failing.error_rate > 0.001)
    return ["warn", `${capital(failing.name)} answers with errors.`, `${text}${none} The log has each of them.`, ""];
  if (slow.p99_ms >= SLOW)
    return ["warn", `${capital(slow.name)} is slow.`, `${text}${none} The traces show where the time goes.`, ""];
  const sum = rate(overview.services.reduce((total, each) => total + each.rate, 0));
  const all = `At the three services together: ${sum} requests, those that they send each other included.`;
  return ["good", "All is well.", `${all} None failed; 99 of 100 take no more than ${ms(slow.p99_ms ?? 0)}. ${off(overview.edges)}`.trim(), ""];
}

// [tone, headline, what it means, its cause], of the mesh as far as it does not depend on the faults `idle`
function judged(overview, on, idle, asked) {
  const { services, edges } = overview;
  const down = services.filter((each) => each.state !== "running");
  // Of several edges in one state, that one whose callee is known to be in trouble.
  const troubled = new Set([...down.map((each) => each.name), ...on.map((each) => each.service)]);
  const first = (state) => {
    const found = edges.filter((each) => stateOf(each) === state);
    return found.find((each) => troubled.has(each.callee)) ?? found[0];
  };
  const state = TRIPPED.find(first);
  if (state) return state === "half_open" ? tried(first(state), on) : broken(first(state), state, down, on);
  const found = harm(overview, on);
  if (down.length) {
    const bare = off(edges.filter((edge) => down.some((each) => each.name === edge.callee)));
    const text = found.text || `Whoever calls it gets no connection${bare ? `. ${bare}` : ", until a breaker opens and spares the trying."}`;
    return ["bad", `${capital(gone(down).join(", "))}.`, asked ? text : QUIET, ""];
  }
  if (on.length) return ["warn", `${capital(because(on))}${on.length > 3 ? " are on" : ""}.`, asked ? found.text || "Nobody has been hurt so far." : QUIET, ""];
  if (!asked) {
    const text = "Send traffic, then break something: the map shows where it hurts, and the panel why.";
    return ["idle", "All is well, and nobody asks anything.", `${text} ${off(edges)}`.trim(), ""];
  }
  return calm(overview, found, idle);
}

// [tone, headline, what it means, its cause]
export function verdict(overview) {
  const { state, services, edges, faults } = overview;
  if (state !== "running") return ["warn", `The mesh is ${state}.`, "What is under way may finish.", ""];
  const asked = services.some((each) => each.rate > 0);
  // A fault that has struck nothing is the cause of nothing; where nothing is to be struck, it is yet to come.
  const still = !asked && !edges.some((each) => TRIPPED.includes(stateOf(each)));
  const acts = (fault) => strikes(fault) || (still && !fault.warnings.length);
  const on = faults.filter((each) => each.enabled);
  const idle = on.filter((each) => !acts(each));
  const [tone, head, text, also] = judged(overview, on.filter(acts), idle, asked);
  const more = idle.length ? `On, but has struck nothing: ${because(idle)}.` : "";
  return [tone, head, text, `${also} ${more}`.trim()];
}
