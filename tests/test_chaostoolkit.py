"""The Chaos Toolkit, as an outside client, drives an experiment over the control plane of a real process."""

import asyncio
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.test_cli import Process, meshlite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("chaostoolkit") is None, reason="chaostoolkit is not installed: see [test]"
    ),
]
EXPERIMENT = Path(__file__).parent / "chaos" / "slow-inventory.json"
PLACING = {
    "type": "probe",
    "name": "orders-can-be-placed",
    "tolerance": 201,
    "provider": {
        "type": "http",
        "method": "POST",
        "url": "${orders}/orders",
        "headers": {"Content-Type": "application/json"},
        "arguments": {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]},
        "timeout": 3,
    },
}


async def chaos_run(folder: Path, process: Process, experiment: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The exit code of `chaos run` against the mesh, and its journal."""
    (folder / "experiment.json").write_text(json.dumps(experiment))
    options = ["--no-version-check", "--no-log-file", "--settings", str(folder / "settings.yaml")]
    chaos = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaostoolkit", *options),
        *("run", "--rollback-strategy", "always", "--journal-path", "journal.json", "experiment.json"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_PROXY": "*", **{f"MESHLITE_{name.upper()}": url for name, url in process.urls.items()}},
    )
    said, _ = await asyncio.wait_for(chaos.communicate(), 30)
    assert (folder / "journal.json").exists(), said.decode()
    return chaos.returncode or 0, json.loads((folder / "journal.json").read_text())


async def healed(process: Process) -> bool:
    """Whether no fault is on and no breaker open."""
    async with aiohttp.ClientSession(process.urls["control"]) as client:
        async with client.get("/api/faults") as response:
            faults = [fault["enabled"] for fault in (await response.json())["faults"]]
        async with client.get("/api/edges") as response:
            edges = (await response.json())["edges"]
    assert faults, "the fault is still there, off"
    return not any(faults) and {breaker["state"] for edge in edges for breaker in edge["breakers"]} <= {"closed"}


async def test_orders_stay_up_while_inventory_is_slow(tmp_path: Path) -> None:
    """The hypothesis holds before and after; in between orders degrade, the breaker opens, and the rollback heals."""
    async with meshlite(tmp_path) as process:
        code, journal = await chaos_run(tmp_path, process, json.loads(EXPERIMENT.read_text()))
        assert (code, journal["status"], journal["deviated"]) == (0, "completed", False)
        assert all(journal["steady_states"][when]["steady_state_met"] for when in ("before", "after"))
        made = {run["activity"]["name"]: run for run in journal["run"]}
        assert {run["status"] for run in (*made.values(), *journal["rollbacks"])} == {"succeeded"}
        assert made["make-inventory-slow"]["output"]["body"]["enabled"] is True
        degraded = [made[name]["output"] for name in made if "answer" in name or "one" in name]
        assert [answer["body"]["degraded"] for answer in degraded] == [["inventory"]] * 3
        assert degraded[0]["headers"]["meshlite-degraded"] == "inventory; reason=timeout"
        assert degraded[2]["headers"]["meshlite-degraded"] == "inventory; reason=circuit_open"
        edges = made["the-breaker-is-open"]["output"]["body"]["edges"]
        states = {(edge["caller"], edge["callee"]): [b["state"] for b in edge["breakers"]] for edge in edges}
        assert states["orders", "inventory"] == ["open"]
        assert await healed(process)


async def test_a_hypothesis_that_does_not_hold_is_found_out(tmp_path: Path) -> None:
    """Who believes that orders can be placed all the while is told otherwise, and the rollback heals all the same."""
    experiment = json.loads(EXPERIMENT.read_text())
    experiment["steady-state-hypothesis"]["probes"].append(PLACING)
    async with meshlite(tmp_path) as process:
        code, journal = await chaos_run(tmp_path, process, experiment)
        assert (code, journal["status"], journal["deviated"]) == (1, "completed", True)
        assert journal["steady_states"]["before"]["steady_state_met"]
        last = journal["steady_states"]["after"]["probes"][-1]
        assert (last["activity"]["name"], last["tolerance_met"]) == ("orders-can-be-placed", False)
        assert last["output"]["status"] == 503
        assert await healed(process)
