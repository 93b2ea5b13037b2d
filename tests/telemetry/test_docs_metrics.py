"""The page on metrics: it names what there is, its rules are valid and fire on what they are for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import World
from tests.telemetry.exposed import scrape, trouble

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(RULES,) = (block for block in BLOCKS if block.startswith("groups:"))
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def listed() -> dict[str, tuple[str, set[str]]]:
    """Each metric of the page's tables: its type and its labels."""
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?)\| .+ \|$", PAGE, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


@pytest.mark.looptime
async def test_the_page_lists_what_there_is(world: World) -> None:
    """Every metric with its type and its labels, none that does not exist."""
    await trouble(world)
    seen = await scrape(world)
    labels: dict[str, set[str]] = {name: set() for name in seen.types}
    for name, pairs in seen.samples:
        family = name if name in labels else re.sub(r"_(bucket|count|sum)$", "", name)
        labels[family] |= {label for label, _ in pairs} - {"le"}
    there = {name: (kind, labels[name]) for name, kind in seen.types.items()}
    told = listed()
    if sys.platform != "linux":
        told = {name: row for name, row in told.items() if not name.startswith("process_")}
    assert there == told


@pytest.mark.looptime
async def test_every_outcome_and_state_is_explained(world: World) -> None:
    """What the labels may say is on the page."""
    await trouble(world)
    pairs = {pair for _, labels in (await scrape(world)).samples for pair in labels}
    values = {value for label, value in pairs if label in ("outcome", "state")}
    assert {"ok", "injected", "circuit_open", "half_open"} <= values
    assert not [value for value in values if f"`{value}`" not in PAGE]


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """Every name in a rule is one of the tables', or a histogram's `_bucket` or `_count`."""
    asked = set(re.findall(r"\b((?:meshlite|process)_\w+)", RULES))
    histograms = [name for name, (kind, _) in listed().items() if kind == "histogram"]
    known = set(listed()) | {name + end for name in histograms for end in ("_bucket", "_count")}
    assert asked
    assert asked <= known


def promtool(*arguments: str, text: str | None = None) -> None:
    command = ["promtool", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.looptime
async def test_promtool_finds_nothing_wrong_with_the_metrics(world: World) -> None:
    """Of a mesh that has seen a fault and opened a breaker."""
    await trouble(world)
    promtool("check", "metrics", text=(await scrape(world)).text)


@needs_promtool
@pytest.mark.slow
def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    """As a rules file, to be taken as it stands."""
    (tmp_path / "rules.yml").write_text(RULES, encoding="utf-8")
    promtool("check", "rules", str(tmp_path / "rules.yml"))


EDGE = 'caller="orders",callee="inventory"'
LATE = "meshlite_request_duration_seconds_bucket"
COMMIT = "meshlite_storage_commit_duration_seconds_bucket"
WELL = {
    "meshlite_build_info": "1x90",
    'meshlite_service_up{service="users"}': "1x90",
    'meshlite_request_duration_seconds_count{service="users",status="2xx"}': "0+1000x90",
    'meshlite_request_duration_seconds_count{service="users",status="5xx"}': "0+10x90",
    f'{LATE}{{service="users",le="0.1"}}': "0+1000x90",
    f'{LATE}{{service="users",le="1.0"}}': "0+1000x90",
    f'{LATE}{{service="users",le="+Inf"}}': "0+1000x90",
    f'{LATE}{{service="control",le="0.1"}}': "0x90",
    f'{LATE}{{service="control",le="+Inf"}}': "0+10x90",
    'meshlite_requests_shed_total{service="users"}': "5x90",
    f'meshlite_call_duration_seconds_count{{{EDGE},outcome="ok"}}': "0+100x90",
    f'meshlite_call_duration_seconds_count{{{EDGE},outcome="cancelled"}}': "0+100x90",
    f'meshlite_call_duration_seconds_count{{{EDGE},outcome="error"}}': "0+1x90",
    f'meshlite_call_duration_seconds_count{{{EDGE},outcome="bulkhead_full"}}': "2x90",
    f"meshlite_call_attempts_total{{{EDGE}}}": "0+100x90",
    f"meshlite_call_retries_total{{{EDGE}}}": "0+1x90",
    f'meshlite_breaker_state{{{EDGE},key="edge",state="closed"}}': "1x90",
    f'meshlite_breaker_state{{{EDGE},key="edge",state="open"}}': "0x90",
    f'meshlite_breaker_state{{{EDGE},key="edge",state="half_open"}}': "0x90",
    f'meshlite_breaker_state{{{EDGE},key="edge",state="forced_open"}}': "0x90",
    f'meshlite_breaker_moves_total{{{EDGE},state="open"}}': "1x90",
    f'meshlite_breaker_open_seconds_total{{{EDGE},key="edge"}}': "5x90",
    f'{COMMIT}{{service="orders",le="0.05"}}': "0+100x90",
    f'{COMMIT}{{service="orders",le="2.5"}}': "0+100x90",
    f'{COMMIT}{{service="orders",le="+Inf"}}': "0+100x90",
    "meshlite_loop_lag_seconds_count": "0+600x90",
    'meshlite_loop_lag_seconds_bucket{le="0.25"}': "0+600x90",
    'process_open_fds{job="meshlite"}': "40x90",
    'process_max_fds{job="meshlite"}': "1024x90",
    'process_start_time_seconds{job="meshlite"}': "1000x90",
}
"""A mesh that is well, minute by minute; each alert below is about what differs from it."""

ILL: dict[str, dict[str, str]] = {
    "ServiceDown": {'meshlite_service_up{service="users"}': "0x90"},
    "RequestsFail": {'meshlite_request_duration_seconds_count{service="users",status="5xx"}': "0+100x90"},
    "RequestsSlow": {f'{LATE}{{service="users",le="0.1"}}': "0+900x90"},
    "RequestsShed": {'meshlite_requests_shed_total{service="users"}': "0+1x90"},
    "FaultLeftOn": {'meshlite_injected_faults_total{service="users",fault="f"}': "0+1x90"},
    "CallsFail": {f'meshlite_call_duration_seconds_count{{{EDGE},outcome="circuit_open"}}': "0+50x90"},
    "RetriesMultiply": {f"meshlite_call_retries_total{{{EDGE}}}": "0+20x90"},
    "BulkheadFull": {f'meshlite_call_duration_seconds_count{{{EDGE},outcome="bulkhead_full"}}': "0+1x90"},
    "BreakerOpen": {
        f'meshlite_breaker_state{{{EDGE},key="edge",state="open"}}': "1 0" + " 1 0" * 44,
        f'meshlite_breaker_state{{{EDGE},key="edge",state="half_open"}}': "0 1" + " 0 1" * 44,
    },
    "BreakerFlaps": {f'meshlite_breaker_moves_total{{{EDGE},state="open"}}': "0+1x90"},
    "BreakerMostlyOpen": {f'meshlite_breaker_open_seconds_total{{{EDGE},key="edge"}}': "0+40x90"},
    "BreakerSetByHand": {f'meshlite_breaker_state{{{EDGE},key="edge",state="forced_open"}}': "1x90"},
    "CommitsSlow": {f'{COMMIT}{{service="orders",le="0.05"}}': "0+90x90"},
    "LoopHeld": {'meshlite_loop_lag_seconds_bucket{le="0.25"}': "0+599x90"},
    "FilesRunOut": {'process_open_fds{job="meshlite"}': "1000x90"},
    "Restarts": {'process_start_time_seconds{job="meshlite"}': "1000+60x90"},
    "Gone": {"meshlite_build_info": "_x90"},
}


def test_every_alert_has_its_illness() -> None:
    """The table above is complete."""
    assert re.findall(r"- alert: (\w+)$", RULES, re.MULTILINE) == list(ILL)


@needs_promtool
@pytest.mark.slow
def test_each_alert_fires_on_its_illness_and_on_nothing_else(tmp_path: Path) -> None:
    """After an hour and a quarter of it; a mesh that is well fires none."""

    def case(name: str, series: dict[str, str]) -> dict[str, Any]:
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else []
        return {
            "name": name or "well",
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "75m",
                    "exp_samples": expected,
                }
            ],
        }

    tests = [case("", WELL), *(case(name, {**WELL, **ill}) for name, ill in ILL.items())]
    (tmp_path / "rules.yml").write_text(RULES, encoding="utf-8")
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}), encoding="utf-8")
    promtool("test", "rules", str(tmp_path / "tests.yml"))
