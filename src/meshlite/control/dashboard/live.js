// Keeps the store up to date. The event stream says what happens, and first what happened before the page was opened; the
// overview, asked for once a second and after each event, says how all of it is, and alone whether the mesh answers. A
// second has one poll: where the open tab wants fresh data, or there is a banner about the config file, that takes a turn. A
// page that nobody sees asks nothing.
import { get, headers, onAct } from "./api.js";
import { set, state } from "./store.js";
import { time } from "./words.js";

const KEPT = 600; // seconds of history
const SILENCE = 40_000; // milliseconds; an idle stream has a heartbeat every 15 s
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
    begin(overview.run);
    if (state.overview?.load.running && !overview.load.running) set({ trafficEnded: Date.parse(overview.at) / 1000 });
    set({ overview, heard: performance.now(), link: "live" });
    follow(overview);
  } catch (error) {
    set({ link: error.status === 401 ? "locked" : "lost" });
  } finally {
    asking = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// A run of the mesh, of which the overview or the stream tells first: what we knew of another one is nothing worth.
function begin(run) {
  if (state.run === run) return;
  const notice = state.run ? `The mesh was restarted at ${time(Date.now() / 1000)}: all is loaded anew.` : "";
  set({ run, notice, history: {}, moves: [], story: [] });
  if (state.config) loadConfig().catch(() => {});
  loadProblems().catch(() => {});
}

// What is wrong with the file, and what of it waits for a restart. An event tells when it does; that it no longer does, none
// tells where no value has changed.
async function loadProblems() {
  const { problems, needs_restart: deferred } = await get("/api/config?prefix=mesh.seed");
  set({ problems, deferred });
}

// A large answer: only of edges, when somebody wants to see a policy, and then kept up to date.
export async function loadConfig() {
  const { config } = await get("/api/config?prefix=edges.");
  set({ config: Object.fromEntries(config.map((each) => [each.key, each])) });
}

// Look where something happens, until somebody says where to look.
function follow(overview) {
  if (state.chosen.by !== "page") return;
  const troubled = overview.edges.find((edge) => edge.breakers.some((each) => ["open", "half_open"].includes(each.state)));
  if (troubled) choose(`${troubled.caller}→${troubled.callee}`, "page");
}

export function choose(edge, by = "person") {
  if (state.chosen.edge !== edge || by === "person") set({ chosen: { edge, by } });
}

function second(at, { rates, outcomes }) {
  for (const [name, rate] of Object.entries(rates)) {
    if (!name.includes("→")) {
      set({ asked: at });
      continue;
    }
    const seconds = (state.history[name] ??= []);
    seconds.push({ at, p50: rate.p50_ms, p99: rate.p99_ms, outcomes: outcomes[name] ?? {} });
    while (seconds[0].at < at - KEPT) seconds.shift();
  }
}

function heard(name, data) {
  const at = Date.parse(data.at) / 1000;
  if (name === "requests.summarized") second(at, data);
  if (name === "breaker.moved") set({ moves: [...state.moves.slice(-499), { ...data, at }] });
  if (NEWS.has(name) && name !== "config.applied")
    set({ story: [{ ...data, name, at, edge: data.caller && `${data.caller}→${data.callee}` }, ...state.story].slice(0, 60) });
}

// One block of the stream after the other. https://html.spec.whatwg.org/#parsing-an-event-stream
async function* blocks(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const found = (rest + value).split("\n\n");
    rest = found.pop();
    yield found.map((block) => Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2))));
  }
}

let cut = null; // ends the stream that is being read
let last = "0"; // the id of the last event that was heard; one that no run has: from the first that is kept

async function read() {
  cut = new AbortController();
  let quiet;
  const alive = () => {
    clearTimeout(quiet);
    quiet = setTimeout(() => cut.abort(), SILENCE);
  };
  alive();
  try {
    const response = await fetch("/api/events", { headers: headers({ "Last-Event-ID": last }), signal: cut.signal });
    if (!response.ok) return await sleep(5000); // there are readers enough: the overview comes all the same
    for await (const found of blocks(response, alive)) {
      const events = found.filter((each) => each.data);
      for (const { id, event, data } of events) {
        begin(id.split("-")[0]);
        heard(event, JSON.parse(data));
        last = id;
      }
      if (events.some((each) => NEWS.has(each.event))) refresh();
      if (events.some((each) => each.event.startsWith("config."))) loadProblems().catch(() => {});
      if (state.config && events.some((each) => each.event === "config.applied")) loadConfig().catch(() => {});
      set({});
    }
  } finally {
    clearTimeout(quiet);
    cut.abort(); // whatever ended it, the connection is given back
  }
}

// EventSource sends no header, and so no token: the stream is read by hand. A browser has six connections to a host for
// all its tabs together, and a stream holds one: a tab that nobody sees gives its own back.
async function listen() {
  for (;;) {
    while (state.link !== "live" || document.hidden) await sleep(300);
    await read().catch(() => {});
    await sleep(1000);
  }
}

export function start() {
  onAct(refresh);
  const idle = () => document.hidden || state.link === "locked"; // nobody looks, or may
  let turn = 0;
  setInterval(() => {
    if (idle()) return;
    turn += 1;
    const live = state.link === "live";
    if (live && polls && turn % 3 === 0) polls();
    else if (live && state.problems.length + state.deferred.length && turn % 3 === 1) loadProblems().catch(() => {});
    else refresh();
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) cut?.abort();
    if (!idle()) refresh();
  });
  refresh();
  listen();
}
