// What the page knows, in one object, and who draws it. Everything that changes goes through `set`.
import { useEffect, useLayoutEffect, useState } from "./preact.js";

export const state = {
  run: "", // of which run of the mesh the rest is
  overview: null, // the last answer of /api/overview
  heard: 0, // when it came, by performance.now(): countdowns go on from there
  link: "connecting", // "live", "lost", or "locked" where a token is asked for
  notice: "", // what there is to say of the link: that the mesh was restarted, that it is gone
  config: null, // /api/config of the edges, by key
  problems: [], // what is wrong with the config file just now
  deferred: [], // the keys of it that wait for a restart
  asked: 0, // the end of the last second in which a service was asked anything, in the mesh's time
  trafficEnded: 0, // when the traffic that one can try was seen to have ended, likewise
  history: {}, // by edge: its seconds, the latest last
  moves: [], // breakers' moves, the newest last
  story: [], // what happened, the newest first
  chosen: { edge: "orders→inventory", by: "page" },
  tab: "faults",
  command: null, // the curl command that is shown at the bottom, and whether it was carried out
  traces: { order: "latest", service: "", outcome: "", fault: "", since: "", until: "", gone: "", list: null, open: null },
  logs: { service: "", level: "info", event: "", list: null },
  dialog: null, // an action that wants to be confirmed
};

const readers = new Set();
let due = false;

export function set(patch) {
  Object.assign(state, patch);
  if (due) return;
  due = true;
  // One drawing for all that changes in a turn.
  queueMicrotask(() => {
    due = false;
    for (const reader of readers) reader({});
  });
}

export function useStore() {
  const [, draw] = useState();
  // As soon as it is drawn: what is set before the browser paints is to be drawn as well.
  useLayoutEffect(() => {
    readers.add(draw);
    return () => readers.delete(draw);
  }, []);
  return state;
}

// Draws the caller again so often, as long as it is shown; for countdowns, of which only few are on the page.
export function useTicks(milliseconds) {
  const [, draw] = useState();
  useEffect(() => {
    const timer = setInterval(() => draw({}), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}

// Seconds since the overview was heard: what it says of times goes on from there.
export const aged = () => (performance.now() - state.heard) / 1000;

// The mesh's own time, as a Unix time: this machine's clock may be another one's.
export const meshTime = () => (state.overview ? Date.parse(state.overview.at) / 1000 + aged() : Date.now() / 1000);

export function edgeNamed(name) {
  return state.overview?.edges.find((edge) => `${edge.caller}→${edge.callee}` === name);
}
