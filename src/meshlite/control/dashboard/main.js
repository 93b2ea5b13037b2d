// The page: what is above, the map with what breaks it, the edge that is looked at, and the tabs below.
import { html, render } from "./preact.js";
import { start } from "./live.js";
import { set, useStore } from "./store.js";
import { Dialog, Tabs } from "./parts.js";
import { Banner, CommandLine, Login, Top, Verdict } from "./top.js";
import { MeshMap } from "./map.js";
import { EdgePanel } from "./edge.js";
import { Faults, Presets } from "./faults.js";
import { Services } from "./services.js";
import { Story } from "./story.js";
import { Traces } from "./traces.js";

const TABS = { faults: ["Faults", Faults], services: ["Services and log", Services], traces: ["Traces", Traces] };

function App() {
  const { link, overview, tab, dialog } = useStore();
  const [, Panel] = TABS[tab];
  if (link === "locked") return html`<${Top} /><main><${Login} /></main>`;
  if (!overview) {
    return html`<${Top} /><main><p class="waiting">${
      link === "lost" ? "The mesh does not answer; asking again each second." : "Asking the mesh how it is."
    }</p></main>`;
  }
  return html`<a class="skip" href="#edge">Skip to the edge</a>
  <a class="skip" href="#tab-${tab}">Skip to faults, services, traces</a><${Top} />
  <main class=${link === "lost" ? "stale" : ""}>
    <${Banner} />
    <${Verdict} />
    <div class="columns">
      <div class="column">
        <${MeshMap} />
        <${Presets} />
        <${Story} />
      </div>
      <${EdgePanel} />
    </div>
    <section class="card" aria-label="Faults, services, traces">
      <${Tabs} label="What to look at" panel="panel" chosen=${tab} onChoose=${(key) => set({ tab: key })}
        tabs=${Object.entries(TABS).map(([key, [text]]) => [key, text])} />
      <div id="panel" role="tabpanel" tabindex="-1" aria-labelledby="tab-${tab}"><${Panel} /></div>
    </section>
  </main>
  <${CommandLine} />
  ${dialog && html`<${Dialog} action=${dialog} />`}`;
}

const place = document.getElementById("app");
place.textContent = "";
render(html`<${App} />`, place);
start();
