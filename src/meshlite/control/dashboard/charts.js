// The last ten minutes of an edge: latency and outcomes over one time, with the breaker's states behind both.
import { html, useEffect, useRef, useState } from "./preact.js";
import { edgeNamed, meshTime, set, state, useStore } from "./store.js";
import { tracesAt } from "./traces.js";
import { ms, outcome, OUTCOMES, STATES, stateOf, time, worst } from "./words.js";

const SPAN = 600;
const STEPS = [1, 5, 10, 15, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 600]; // seconds from label to label
let loading = null;

// uPlot is only fetched where a chart is shown: the map need not wait for it.
function library() {
  loading ??= new Promise((done, failed) => {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/page/uplot.css" });
    const script = Object.assign(document.createElement("script"), {
      src: "/page/uplot.js",
      onload: () => done(window.uPlot),
      onerror: failed,
    });
    document.head.append(sheet, script);
  });
  return loading;
}

// `light-dark()` is resolved by an element's color, not by a variable: a canvas needs the result.
function paint(name) {
  const probe = document.getElementById("paint");
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

// From when to when the edge was in which state: the worst of its breakers, by their moves. Before its first move a breaker
// was in what that one left; without one it is as it was. One that a new policy has replaced ends with its last move.
export function stretches(moves, now, edge) {
  const keys = new Set(edge.breakers.map((each) => each.key));
  const states = new Map(edge.breakers.map((each) => [each.key, each.state]));
  for (const move of [...moves].reverse()) states.set(move.key, move.old);
  const found = [];
  let from = now - SPAN;
  const add = (until) => {
    const state = worst([...states.values()]) ?? stateOf(edge);
    if (found.at(-1)?.[2] === state) found.at(-1)[1] = Math.max(from, until);
    else if (until > from) found.push([from, until, state]);
    from = Math.max(from, until);
  };
  for (const [place, move] of moves.entries()) {
    add(move.at);
    states.set(move.key, move.new);
    if (!keys.has(move.key) && !moves.slice(place + 1).some((each) => each.key === move.key)) states.delete(move.key);
  }
  add(now);
  return found;
}

function hatch(context, shade, lean, ground) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const draw = tile.getContext("2d");
  if (ground) ((draw.fillStyle = ground), draw.fillRect(0, 0, 8, 8));
  draw.strokeStyle = shade;
  draw.lineWidth = 3;
  draw.beginPath();
  if (lean > 0) (draw.moveTo(-2, 10), draw.lineTo(10, -2), draw.moveTo(-2, 2), draw.lineTo(2, -2), draw.moveTo(6, 10), draw.lineTo(10, 6));
  else (draw.moveTo(0, 4), draw.lineTo(4, 4));
  draw.stroke();
  return context.createPattern(tile, "repeat");
}

// The states as a band above the plot, and faintly behind it; by colour, and open hatched, half-open dashed.
function background(plot, name) {
  const { ctx, bbox } = plot;
  const edge = edgeNamed(name);
  if (!edge) return;
  const moves = state.moves.filter((each) => `${each.caller}→${each.callee}` === name);
  const x = (at) => Math.min(Math.max(plot.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width);
  ctx.save();
  for (const [begin, end, was] of stretches(moves, meshTime(), edge)) {
    const shade = paint(STATES[was]?.tone ?? "off");
    const left = x(begin);
    const width = Math.max(x(end) - left, 1);
    ctx.fillStyle = shade;
    if (was !== "closed") {
      ctx.globalAlpha = 0.13;
      ctx.fillRect(left, bbox.top, width, bbox.height);
    }
    ctx.globalAlpha = was === "closed" ? 0.5 : 0.9;
    const band = 7 * devicePixelRatio;
    if (was === "closed") ctx.fillRect(left, bbox.top - band, width, band * 0.45);
    else {
      ctx.fillStyle = was === "half_open" ? hatch(ctx, shade, 0) : was.includes("open") ? hatch(ctx, shade, 1) : shade;
      ctx.fillRect(left, bbox.top - band, width, band);
      ctx.globalAlpha = 0.35;
      ctx.fillStyle = shade;
      ctx.fillRect(left, bbox.top - band, width, band);
    }
  }
  ctx.restore();
}

const axis = (ink, grid, more = {}) => ({
  stroke: ink,
  grid: { stroke: grid, width: 1 },
  ticks: { show: false },
  font: "11px system-ui",
  size: 46,
  gap: 6,
  ...more,
});

function options(name, width, height, series, values, log) {
  const ink = paint("muted");
  const grid = paint("line");
  const now = meshTime;
  return {
    width,
    height,
    padding: [10, 8, 0, 0],
    legend: { show: false },
    // There is nothing to drag. uPlot takes a click for the end of one, and stops it, where no mouse has moved before.
    cursor: { sync: { key: "edge" }, y: false, points: { size: 6 }, drag: { x: false, y: false, click: () => {} } },
    scales: {
      x: { time: true, range: (plot) => [Math.max(now() - SPAN, Math.min((plot.data[0][0] ?? now()) - 5, now() - 120)), now()] },
      y: log
        ? { distr: 3, range: (_, low, high) => [Math.max(0.1, Math.min(low ?? 1, 1)), Math.max(high ?? 10, 10) * 1.3] }
        : { range: (_, __, high) => [0, Math.max(high ?? 0, 5) * 1.15] },
    },
    axes: [
      axis(ink, grid, { size: 24, space: 66, incrs: STEPS, values: (plot, splits) => splits.map((at) => (plot.valToPos(at, "x") > plot.over.clientWidth - 20 ? "" : time(at))) }),
      axis(ink, grid, {
        values,
        space: log ? 26 : 17,
        grid: {
          stroke: grid,
          width: 1,
          filter: (_, splits) => splits.map((at) => (log && at > 0 && Math.abs(Math.log10(at) % 1) > 0.001 ? null : at)),
        },
      }),
    ],
    series: [{}, ...series],
    hooks: {
      drawClear: [(plot) => background(plot, name)],
      ready: [(plot) => plot.over.addEventListener("click", (event) => tracesAt(name, clicked(plot, event)))],
      setCursor: [(plot) => point(plot)],
    },
  };
}

// The moment of a click. The cursor of uPlot is only where a mouse has moved before; a tap may be beyond the edge.
function clicked(plot, event) {
  const { left, width } = plot.over.getBoundingClientRect();
  return plot.posToVal(Math.min(Math.max(event.clientX - left, 0), width), "x");
}

let read = () => {};
const point = (plot) => read(plot.cursor.idx === null || plot.cursor.left < 0 ? null : plot.data[0][plot.cursor.idx]);

// Stacked: each outcome's line is the sum of those before it, drawn from the highest down.
function stacked(seconds, kinds) {
  const sums = seconds.map(() => 0);
  return kinds.map((kind) => seconds.map((second, place) => (sums[place] += second.outcomes[kind] ?? 0)));
}

// Seconds in which nothing was asked have no point; a gap is drawn as one.
function filled(seconds) {
  const found = [];
  for (const second of seconds) {
    const last = found.at(-1);
    if (last && second.at - last.at > 2.5)
      found.push({ at: last.at + 1, p50: null, p99: null, outcomes: {} }, { at: second.at - 1, p50: null, p99: null, outcomes: {} });
    found.push(second);
  }
  return found;
}

export function Charts({ name }) {
  const { history, moves, dressed, heard, overview } = useStore();
  const place = useRef();
  const plots = useRef([]);
  const [at, look] = useState(null);
  const raw = history[name];
  const kinds = Object.keys(OUTCOMES).filter((kind) => raw?.some((second) => second.outcomes[kind]));
  read = look;
  const shape = `${name} ${kinds} ${dressed} ${!!raw}`;
  useEffect(() => {
    if (!raw) return undefined;
    let gone = false;
    library().then((uPlot) => {
      if (gone || !place.current) return;
      const width = place.current.clientWidth;
      const [top, bottom] = place.current.children;
      const line = (tone, more) => ({ stroke: paint(tone), width: 1.5, points: { show: false }, ...more });
      const latency = [line("accent", { label: "p50", dash: [] }), line("ink", { label: "p99", dash: [4, 3] })];
      const ended = kinds.map((kind) => {
        const shade = paint(outcome(kind).tone);
        // The breaker's are hatched, as in the bar below; what is drawn before must not shine through.
        const fill = kind === "circuit_open" ? (plot) => hatch(plot.ctx, shade, 1, paint("card")) : shade;
        return line(outcome(kind).tone, { label: kind, width: 1, fill, paths: uPlot.paths.stepped({ align: -1 }) });
      });
      const dark = matchMedia("(prefers-color-scheme: dark)");
      plots.current = [
        new uPlot(
          options(name, width, 132, latency, (_, splits) => splits.map((each) => (each === null ? null : ms(each))), true),
          [[]],
          top,
        ),
        new uPlot(
          options(name, width, 104, [...ended].reverse(), (_, splits) => splits, false),
          [[]],
          bottom,
        ),
      ];
      const resize = new ResizeObserver(() =>
        plots.current.forEach(
          (plot, each) => place.current && plot.setSize({ width: place.current.clientWidth, height: each ? 104 : 132 }),
        ),
      );
      resize.observe(place.current);
      const redress = () => set({ dressed: Date.now() });
      dark.addEventListener("change", redress);
      plots.current.end = () => (resize.disconnect(), dark.removeEventListener("change", redress));
      fill();
    });
    return () => {
      gone = true;
      plots.current.end?.();
      for (const plot of plots.current) plot.destroy();
      plots.current = [];
    };
  }, [shape]);
  const fill = () => {
    const seconds = filled((state.history[name] ?? []).map((each) => ({ ...each })));
    const times = seconds.map((each) => each.at);
    plots.current[0]?.setData([times, seconds.map((each) => each.p50), seconds.map((each) => each.p99)]);
    plots.current[1]?.setData([times, ...stacked(seconds, kinds).reverse()]);
  };
  useEffect(fill, [heard, history, moves, shape]);
  const second = at === null ? null : raw?.find((each) => each.at === at);
  const empty = !raw?.length;
  return html`<div class="charts"><span id="paint" hidden />
    <div class="row"><h3>The last ten minutes</h3><span class="space" /><p class="small num key">${
      second
        ? html`<b>${time(second.at)}</b> p50 ${ms(second.p50)} · p99 ${ms(second.p99)} · ${Object.entries(second.outcomes)
            .map(([kind, count]) => `${count} ${outcome(kind).word}`)
            .join(", ")}`
        : html`<span class="accent">p50</span><span class="ink dashed">p99</span>`
    }</p></div>
    ${empty && html`<p class="empty small">Nothing has been asked of ${overview && name.split("→")[1]} yet: send traffic, and it is drawn here.</p>`}
    <div ref=${place} class="plots" hidden=${empty} role="img"
      aria-label="Latency and outcomes of ${name} in the last ten minutes, over the breaker's states. The moves are listed below.">
      <div /><div /></div>
    ${!empty && html`<p class="small hint">Above latency, below how calls ended, each second; the band is the breaker, hatched where it is open. A click leads to the slowest traces of that moment, of those that are kept.</p>`}
  </div>`;
}
