// Keeps the store up to date. The event stream says at once that something moved; the overview, asked for once a second
// and after each event, says how all of it is. A second has one poll: where the open tab wants fresh data, it takes a turn.
import { get, headers, onAct } from "./api.js";
import { set, state } from "./store.js";

const KEPT = 600; // seconds of history, as the mesh keeps them
const NEWS = new Set([
  "breaker.moved",
  "service.moved",
  "fault.switched",
  "config.applied",
  "config.deferred",
  "config.rejected",
  "loop.blocked",
]);
let polls = null; // what the open tab asks for now and then
let asking = false;
let again = false;

export const poll = (work) => {
  polls = work;
};

export async function refresh() {
  if (asking) {
    again = true; // what is on its way may have left before what we want to see
    return;
  }
  asking = true;
  try {
    const overview = await get("/api/overview");
    const before = state.overview?.run;
    set({ overview, heard: performance.now(), link: "live" });
    if (before && before !== overview.run) begin(`The mesh was restarted at ${clock()}: all is loaded anew.`);
    else if (!before) begin("");
    follow(overview);
  } catch (error) {
    if (state.link !== "locked") set({ link: "lost" });
    if (error.status === 401) set({ link: "locked" });
  } finally {
    asking = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const clock = () => new Date().toLocaleTimeString();

// A run of the mesh: what we knew of another one is nothing worth.
async function begin(notice) {
  set({ notice, history: {}, moves: [], story: [] });
  await Promise.allSettled([state.config && loadConfig(), loadHistory(state.chosen.edge), loadStory()]);
}

// A large answer: only of edges, when somebody wants to see a policy, and then kept up to date.
export async function loadConfig() {
  const { config } = await get("/api/config?prefix=edges.");
  set({ config: Object.fromEntries(config.map((each) => [each.key, each])) });
}

// What the log still knows of what happened before the page was opened.
async function loadStory() {
  const { logs } = await get("/api/logs?level=warning&limit=100");
  const told = logs
    .filter((line) => NEWS.has(line.event))
    .map((line) => ({ ...line, name: line.event, at: Date.parse(line.timestamp) / 1000 }));
  set({ story: [...state.story, ...told].slice(0, 60) });
}

export async function loadHistory(name) {
  if (state.history[name]) return;
  const { times, series, moves } = await get(`/api/history?name=${encodeURIComponent(name)}`);
  const outcomes = series[name].outcomes ?? {};
  const seconds = times.map((at, place) => ({
    at,
    p50: series[name].p50_ms[place],
    p99: series[name].p99_ms[place],
    outcomes: Object.fromEntries(Object.entries(outcomes).map(([outcome, counts]) => [outcome, counts[place]])),
  }));
  const others = state.moves.filter((move) => `${move.caller}→${move.callee}` !== name);
  set({ history: { ...state.history, [name]: seconds }, moves: [...others, ...moves].sort((a, b) => a.at - b.at) });
}

// Look where something happens, until somebody says where to look.
function follow(overview) {
  if (state.chosen.by !== "page") return;
  const troubled = overview.edges.find((edge) => edge.breakers.some((each) => ["open", "half_open"].includes(each.state)));
  if (troubled) choose(`${troubled.caller}→${troubled.callee}`, "page");
}

export function choose(edge, by = "person") {
  if (state.chosen.edge !== edge || by === "person") set({ chosen: { edge, by } });
  loadHistory(edge).catch(() => {});
}

function heard(name, data) {
  const at = Date.parse(data.at) / 1000;
  if (name === "requests.summarized") {
    for (const edge of Object.keys(state.history)) {
      const rate = data.rates[edge];
      if (!rate) continue;
      const seconds = state.history[edge];
      seconds.push({ at, p50: rate.p50_ms, p99: rate.p99_ms, outcomes: data.outcomes[edge] ?? {} });
      while (seconds.length > KEPT || seconds[0].at < at - KEPT) seconds.shift();
    }
    set({});
    return;
  }
  if (name === "breaker.moved") set({ moves: [...state.moves.slice(-499), { ...data, at }] });
  if (name === "config.applied" && state.config) loadConfig().catch(() => {});
  if (NEWS.has(name)) {
    if (name !== "config.applied")
      set({ story: [{ ...data, name, at, edge: data.caller && `${data.caller}→${data.callee}` }, ...state.story].slice(0, 60) });
    refresh();
  }
}

// EventSource sends no header, and so no token: the stream is read by hand. https://html.spec.whatwg.org/#parsing-an-event-stream
async function listen() {
  for (let first = true; ; first = false) {
    try {
      while (state.link === "locked") await sleep(300); // each try would be a line in the mesh's log
      const response = await fetch("/api/events", { headers: headers() });
      if (!response.ok) throw Object.assign(new Error("no events"), { status: response.status });
      if (!first) set({ history: {} }); // what came meanwhile is in the mesh's own history
      loadHistory(state.chosen.edge).catch(() => {});
      refresh();
      let rest = "";
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const field = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
          if (!field.data) continue;
          heard(field.event, JSON.parse(field.data));
        }
      }
      throw new Error("the stream ended");
    } catch (error) {
      if (error.status === 401) set({ link: "locked" });
      else if (error.status !== 503) set({ link: "lost" }); // 503: there are readers enough, and the overview comes all the same
      await sleep(1000);
    }
  }
}

export function start() {
  onAct(refresh);
  let turn = 0;
  setInterval(() => {
    if (document.hidden || state.link === "locked") return; // nobody looks, or may
    turn += 1;
    if (polls && turn % 3 === 0 && state.link === "live") polls();
    else refresh();
  }, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  refresh();
  listen();
}
