// Asking the control plane, and saying each request as the curl command that would do the same.
import { set, state } from "./store.js";

const KEY = "meshlite-token";
const PATIENCE = { GET: 3000 }; // milliseconds; what changes something may take as long as a service takes to drain
let token = sessionStorage.getItem(KEY);

export const hasToken = () => !!token;

// It is kept, for this tab, once the mesh has taken it.
export function unlock(given) {
  token = given;
}

// A header is bytes, and the mesh reads them as UTF-8: `fetch` takes each byte as a character.
export function headers(more = {}) {
  return token ? { ...more, Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}` } : more;
}

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `answered ${status}`); // the detail names each field
    this.status = status;
    this.fields = problem.errors ?? [];
  }
}

export async function ask(method, path, body) {
  const sent = {
    method,
    headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
    signal: AbortSignal.timeout(PATIENCE[method] ?? 60_000),
  };
  if (body !== undefined) sent.body = JSON.stringify(body);
  let response;
  let text;
  try {
    response = await fetch(path, sent);
    text = await response.text();
  } catch {
    throw new Refusal(0, { detail: "the mesh does not answer" });
  }
  if (response.ok && token) sessionStorage.setItem(KEY, token);
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    // not ours: whatever stands between us and the mesh answered
    if (response.ok) throw new Refusal(0, { detail: "the answer is not the mesh's" });
  }
  if (response.status === 401) set({ link: "locked" });
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

export const get = (path) => ask("GET", path);

// In single quotes nothing has a meaning for a shell but the quote itself.
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

export function curl({ method, path, body }) {
  const parts = ["curl"];
  if (method !== "GET") parts.push("-X", method);
  const url = location.origin + path;
  parts.push(/[&?]/.test(url) ? quoted(url) : url);
  if (token) parts.push('-H "Authorization: Bearer $TOKEN"');
  if (body !== undefined) parts.push("-H 'Content-Type: application/json'", "-d", quoted(JSON.stringify(body)));
  return parts.join(" ");
}

// Carry out an action, which is a list of requests; the command line at the bottom says what was done.
export async function act(action) {
  const text = action.requests.map(curl).join(" && ");
  set({ command: { text, state: "going", said: action.label } });
  try {
    for (const request of action.requests) await ask(request.method, request.path, request.body);
    set({ command: { text, state: "done", said: action.label } });
  } catch (error) {
    set({ command: { text, state: "failed", said: `${action.label}: ${error.message}` } });
    if (action.raises) throw error;
  } finally {
    action.then?.();
    refresh();
  }
}

export const preview = (action) => {
  if (state.command?.state !== "going")
    set({ command: { text: action.requests.map(curl).join(" && "), state: "shown", said: action.label } });
};

// Set by live.js, which asks for the overview: what was done is to be seen at once.
let refresh = () => {};
export const onAct = (hook) => {
  refresh = hook;
};
