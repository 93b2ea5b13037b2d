"""The commands against a running mesh, as a person and as a script use them: a real socket answers."""

import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from meshlite.cli import main
from meshlite.config import load
from meshlite.remote import Api
from meshlite.terminal import PROGRAM, Paint, advised, started_by
from meshlite.views import edges, faults, status
from tests.fake_control import OPEN, POLICY, FakeControl, breaker, edge, fault, problem, service

Run = Callable[..., tuple[int, str, str]]
READER = [sys.executable, "-m", "meshlite"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config.toml lies here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake() -> Iterator[FakeControl]:
    with FakeControl() as fake:
        yield fake


@pytest.fixture
def run(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command at the fake: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*fake.at, *arguments])
        return code, *capsys.readouterr()

    return run


STATUS = """\
services
  name       state     url                    req/s  errors %  p99 ms  in flight
  users      running   http://127.0.0.1:8080   41.7         0     3.6          2
  orders     running   http://127.0.0.1:8081   12.3       0.4     412          5
  inventory  draining  http://127.0.0.1:8082    3.1         0   5,004         17

edges
  edge              breaker  calls/s  errors %  refused %
  users→orders      closed       3.0         0          0
  orders→inventory  open        12.3      21.0       79.0
    3 consecutive failures, last: no answer after 0.25 s; retry in 4.2 s
  orders→users      closed         0         0          0

faults
  name            what it does                      hits  left
  slow-inventory  delay 5 s at inventory (request)    17  24 s
"""
EDGE = """\
orders→inventory  open
  timeout   0.6 s for the call, 0.25 s for an attempt
  retry     2 tries in all, at most 0.25 s apart, budget 0.2 retries a request,
            and 3 a second
  bulkhead  100 at once, 0 may wait
  breaker   opens after 3 failures in a row, probes after 5 s (1 at a time),
            closes after 2 successes; one per edge
  admission 200 at once, 100 may wait; the callee's, for all its callers
  traffic   12.3 calls/s, 21.0 % errors, 79.0 % refused, p99 252 ms
  now       0 in flight, 0 waiting, amplification 1

  key   state    for  failures  opened  in flight  retry in
  edge  open   0.8 s         -       1          0     4.2 s
    3 consecutive failures, last: no answer after 0.25 s
"""


def test_status_is_the_mesh_at_a_glance(run: Run) -> None:
    """Aligned columns, why a breaker is open below its edge, no colour where nobody looks."""
    assert run("status") == (0, STATUS, "")


def test_edges_say_all_there_is_to_know(run: Run) -> None:
    """Policy in force, traffic, every breaker with its reason."""
    code, out, _ = run("edges")
    assert code == 0
    assert EDGE in out


def test_what_is_switched_off_is_said(fake: FakeControl) -> None:
    """A policy without rules, an edge without a breaker, a mode that was set by hand."""
    off = {**dict.fromkeys(POLICY), "retry": {"attempts": 2, "max_delay": 1, "budget": None}}
    lines = edges({"edges": [edge("a", "b", policy=off, breakers=[], mode="metrics_only")]}, Paint())
    assert lines[0] == "a→b  metrics_only"
    assert "  timeout   no limit for the call, no limit for an attempt" in lines
    assert "  retry     2 tries in all, at most 1 s apart, no budget" in lines
    assert {"  breaker   off", "  admission off"} <= set(lines)
    assert "  mode      metrics_only, set by hand" in lines
    fake.state["edges"] = [edge("a", "b", policy=dict.fromkeys(POLICY), breakers=[])]
    assert "  a→b   none" in "\n".join(status(fake.state, Paint()))


def test_the_worst_breaker_speaks_for_an_edge(fake: FakeControl) -> None:
    """With a breaker per route: its state in the table, and each that is not closed on a line of its own."""
    half = breaker(key="GET /inventory/{sku}", state="half_open", reason="5 s are over")
    fake.state["edges"] = [edge("a", "b", breakers=[breaker(key="x"), half, {**OPEN, "key": "PUT /r/{id}"}])]
    lines = status(fake.state, Paint())
    at = next(i for i, line in enumerate(lines) if line.startswith("  a→b"))
    assert lines[at].split()[1] == "open"
    assert lines[at + 1] == "    GET /inventory/{sku} half_open: 5 s are over"
    assert lines[at + 2].startswith("    PUT /r/{id} open: 3 consecutive failures")
    assert lines[at + 2].endswith("; retry in 4.2 s")
    assert len(lines[at + 2]) <= 80


@pytest.mark.parametrize(
    ("state", "shown"),
    [("closed", "2"), ("metrics_only", "2"), ("half_open", "-"), ("forced_open", "-"), ("disabled", "-")],
)
def test_failures_are_told_where_they_are_counted(state: str, shown: str) -> None:
    """A breaker that is open counts none: a 0 would say that nothing failed."""
    lines = edges({"edges": [edge("a", "b", breakers=[breaker(state=state, consecutive_failures=2)])]}, Paint())
    heads, values = next((heads, line) for heads, line in pairwise(lines) if heads.startswith("  key"))
    assert dict(zip(re.split("  +", heads.strip()), re.split("  +", values.strip()), strict=True))["failures"] == shown


def test_a_command_to_copy_is_never_broken() -> None:
    """Where it does not fit behind the words it has a line of its own, however long that is."""
    command = f"/a/folder/{'x' * 60}/python -m meshlite reset"
    assert advised("try:", "meshlite reset", "  ") == ["  try: meshlite reset"]
    assert advised("no fault is on; try:", command, "  ") == ["  no fault is on; try:", f"    {command}"]


def test_what_is_down_is_explained(fake: FakeControl) -> None:
    """A failed service's reason is below it, and the command that brings it back below all."""
    fake.state["services"][1] |= {"state": "failed", "reason": "OSError: the disk is full"}
    lines = status(fake.state, Paint())
    assert lines[4] == "    OSError: the disk is full"
    assert f"bring back what is down: {PROGRAM} service start orders" in unwrapped("\n".join(lines))


def test_who_runs_but_is_not_ready_is_said(fake: FakeControl) -> None:
    """As its readiness says it, in the place of the state."""
    fake.state["services"][1] |= {"ready": False}
    (line,) = [line for line in status(fake.state, Paint()) if line.startswith("  orders ")]
    assert line.split()[1:3] == ["not", "ready"]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([], "no fault is known; try: {} fault set slow-users"),
        ([fault("x")], "no fault is on; try: {} fault enable x"),
        ([fault("x"), fault("slow-inventory")], "no fault is on; try: {} fault enable slow-inventory"),
    ],
)
def test_nothing_on_is_no_empty_table(run: Run, fake: FakeControl, known: list[Any], said: str) -> None:
    """It says what to do, to this mesh."""
    fake.state["faults"] = known
    assert said.format(f"{PROGRAM} {shlex.join(fake.at)}") in unwrapped(run("status")[1])
    assert "fault set slow-users" in run("fault", "list")[1] or known
    assert run("fault", "clear") == (0, "no fault was on\n", "")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"kind": "delay", "seconds": 5.0, "service": "users", "phase": "request"}, "delay 5 s at users (request)"),
        ({"kind": "error", "status": 503, "service": "users", "phase": "response"}, "error 503 at users (response)"),
        (
            {"kind": "error", "status": 503, "service": "a", "probability": 0.3, "caller": "b", "route": "GET /x"},
            "error 503 at a (request)|  asked by b, for GET /x, 30 % of requests",
        ),
        ({"kind": "hang", "service": "a", "after": 3, "route": None}, "hang at a (request)|  after=3"),
        ({}, "- at - (request)"),
    ],
)
def test_a_fault_is_said_in_words(rule: dict[str, Any], words: str) -> None:
    """Those that this version knows, and those it does not."""
    _, line, *below = faults({"faults": [fault("x", rule=rule)]}, Paint())
    assert "|".join([re.split(r"  +", line)[2], *below]) == words


LONG = "x" * 300
ODD: list[Any] = [
    None, "", LONG, "漢字" * 90, "é\N{COMBINING ACUTE ACCENT}" * 90, "a\nb\tc\rd", "\33[31m\33[2J\a\0", "\ud800",
    True, -1, 10**400, 1e308, float("nan"), float("inf"), [1, LONG], {"a": LONG}, "open",
]  # fmt: skip


def unwrapped(text: str) -> str:
    """How it reads, wherever its lines end: a path of the Python that runs this may be long."""
    return " ".join(text.split())


def columns(line: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in line)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_whatever_is_answered_fits_the_terminal(odd: Any) -> None:
    """Its columns, one line for one line, nothing that moves the cursor; what is absent is "-"."""
    known = service("a", 1, reason=odd), edge("a", "b"), fault("x", enabled=True), breaker(state="open")
    everything = [dict.fromkeys(table, odd) for table in known[:3]]
    everything[1]["breakers"] = [dict.fromkeys(known[3], odd), {}, {**OPEN, "reason": odd}]
    everything[2]["enabled"] = True
    odd_rule = fault("y", enabled=True, rule=dict.fromkeys(["kind", "seconds", "status", "caller", "route", "z"], odd))
    answer = {
        "services": [known[0], everything[0], {}, odd],
        "edges": [known[1], everything[1], {}, odd, edge("a", "b", policy=dict.fromkeys(POLICY, odd))],
        "faults": [known[2], everything[2], odd_rule, {}, odd],
        "config": {"problems": [odd], "problems_since": odd, "needs_restart": [odd, odd]},
    }
    for width in (40, 60, 80, 120):
        paint = Paint(width)
        shown = [*status(answer, paint), *edges(answer, paint), *faults(answer, paint)]
        assert all(columns(line) <= width for line in shown), max(shown, key=columns)
        assert all(line.isprintable() for line in shown)


NARROW = """\
services
  name       state     req/s  errors %  p99 ms  in flight
  users      running    41.7         0     3.6          2
  orders     running    12.3       0.4     412          5
  inventory  draining    3.1         0   5,004         17

edges
  edge              breaker  calls/s  errors %  refused %
  users→orders      closed       3.0         0          0
  orders→inventory  open        12.3      21.0       79.0
    3 consecutive failures, last: no answer…; retry in 4.2 s
  orders→users      closed         0         0          0

faults
  name            what it does                      left
  slow-inventory  delay 5 s at inventory (request)  24 s
"""


def test_a_narrow_terminal_is_shown_less(fake: FakeControl) -> None:
    """At 60 columns whole columns are left out, the least important first, rather than cut or broken."""
    assert "\n".join(status(fake.state, Paint(60))) + "\n" == NARROW
    assert "no answer after 0.25 s; retry in 4.2 s" in "\n".join(status(fake.state, Paint(120)))
    assert faults(fake.state, Paint(60))[0] == "name            state  what it does                     left"
    fake.state["edges"] = [edge("a", "b", breakers=[{**OPEN, "key": "PUT /reservations/{order_id}"}])]
    assert "  PUT /reservations/{order_id}  open   0.8 s     4.2 s" in edges(fake.state, Paint(60))


def test_a_file_that_is_wrong_is_said_above_all(run: Run, fake: FakeControl) -> None:
    """Since when, and the first of what is wrong; and what waits for a restart."""
    config = {
        "problems": ["config.toml: policy.timeout: expected a number above 0, got 0", "b"],
        "problems_since": "2026-01-02T03:04:05.678901Z",
        "needs_restart": ["mesh.seed", "control.port"],
    }
    fake.answers["GET", "/api/config"] = 200, config
    code, out, _ = run("status")
    assert code == 0
    assert out.splitlines()[:6] == [
        "config",
        "  the file is wrong since 2026-01-02 03:04:05 UTC, what was in force stays:",
        "    config.toml: policy.timeout: expected a number above 0, got 0 (and 1 more)",
        "  waits for a restart: mesh.seed, control.port",
        "",
        "services",
    ]


def test_what_is_missing_is_a_dash(run: Run, fake: FakeControl) -> None:
    """An older mesh, that tells less."""
    fake.state = {"services": [{"name": "users"}], "edges": [{"caller": "a", "callee": "b"}], "faults": []}
    code, out, _ = run("status")
    assert code == 0
    assert re.search(r"^  users  -      -        -         -       -          -$", out, re.MULTILINE)
    assert run("edges")[0] == 0


ASKED: list[tuple[list[str], list[tuple[str, str, Any]], Any]] = [
    (["service", "stop", "users"], [("POST", "/api/services/users/stop", None)], {"services": [{"name": "users"}]}),
    (
        ["service", "restart", "users", "orders", "users"],
        [
            ("GET", "/api/services", None),
            ("POST", "/api/services/users/restart", None),
            ("POST", "/api/services/orders/restart", None),
        ],
        {"services": [{"name": "users"}, {"name": "orders"}]},
    ),
    (["fault", "enable", "x"], [("PATCH", "/api/faults/x", {"enabled": True})], {"faults": [{"name": "x"}]}),
    (["fault", "disable", "x"], [("PATCH", "/api/faults/x", {"enabled": False})], {"faults": [{"name": "x"}]}),
    (["fault", "clear", "x"], [("PATCH", "/api/faults/x", {"enabled": False})], {"faults": [{"name": "x"}]}),
    (
        ["fault", "set", "x", "seconds=2.5", "route=GET /users/*", "enabled=true"],
        [("PATCH", "/api/faults/x", {"seconds": 2.5, "route": "GET /users/*", "enabled": True})],
        {"name": "x"},
    ),
    (
        ["fault", "set", "x", "times=", "route=", "probability=0.5"],
        [("PATCH", "/api/faults/x", {"times": None, "route": None, "probability": 0.5})],
        {"name": "x"},
    ),
    (["fault", "set", "a/b?", "s=x"], [("PATCH", "/api/faults/a%2Fb%3F", {"s": "x"})], {"name": "a/b?"}),
    (["breaker", "a", "b", "reset"], [("POST", "/api/edges/a/b/breaker/reset", None)], edge("a", "b")),
    (
        ["breaker", "a->b", "forced_open"],
        [("PUT", "/api/edges/a/b/breaker", {"mode": "forced_open"})],
        edge("a", "b", mode="forced_open"),
    ),
    (["reset"], [("POST", "/api/reset", None)], {"faults": [], "breakers": [], "services": [], "not_started": []}),
]


@pytest.mark.parametrize(("arguments", "asked", "answer"), ASKED, ids=lambda case: str(case)[:40])
def test_every_command_asks_what_the_api_has(
    run: Run, fake: FakeControl, arguments: list[str], asked: list[tuple[str, str, Any]], answer: Any
) -> None:
    """And `--json` prints what is answered and nothing else, before the command or after it."""
    answers = next(iter(answer.values())) if len(asked) > 1 else [answer]
    for (method, path, _), one in zip([ask for ask in asked if ask[0] != "GET"], answers, strict=True):
        inner = next(iter(one.values())) if set(one) in ({"services"}, {"faults"}) else one
        fake.answers[method, path] = 200, inner[0] if isinstance(inner, list) else inner
    code, out, err = run(*arguments, "--json")
    assert (code, json.loads(out), err) == (0, answer, "")
    assert fake.asked == asked
    assert out == json.dumps(answer, indent=2) + "\n"
    for before in (["--json", *arguments], [arguments[0], "--json", *arguments[1:]]):
        assert run(*before) == (0, out, "")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize(
    ("pair", "sent"),
    [
        ("enabled=true", {"enabled": True}),
        ("script=['ok', 'error']", {"script": ["ok", "error"]}),
        ('script=["ok", "error"]', {"script": ["ok", "error"]}),
        ("statuses={503 = 3}", {"statuses": {"503": 3}}),
        ('statuses={"503": 3}', {"statuses": {"503": 3}}),
        ("statuses.503=3", {"statuses": {"503": 3}}),
        ("headers={x-id = 'a'}", {"headers": {"x-id": "a"}}),
        ('headers={"x-id": "a"}', {"headers": {"x-id": "a"}}),
        ("headers.x-id=7", {"headers": {"x-id": "7"}}),
        ('headers."a.b"=[x]*', {"headers": {"a.b": "[x]*"}}),
        ("service=users", {"service": "users"}),
        ("service='users'", {"service": "users"}),
        ("route=[a-z]*", {"route": "[a-z]*"}),
        ('body={"error": "down"}', {"body": '{"error": "down"}'}),
        ("body=503", {"body": "503"}),
        ('body="a\\nb"', {"body": "a\nb"}),
        ('body=""', {"body": ""}),
        ("seconds=1_000", {"seconds": 1000}),
        ("seconds=2s", {"seconds": "2s"}),
    ],
)
def test_a_value_is_toml_or_json_or_a_text(run: Run, fake: FakeControl, pair: str, sent: dict[str, Any]) -> None:
    """Words need no quotes; a body, a pattern and a header are texts whatever they look like."""
    fake.answers["PATCH", "/api/faults/x"] = 200, fault("x")
    assert run("fault", "set", "x", pair)[0] == 0
    assert fake.asked[-1] == ("PATCH", "/api/faults/x", sent)


def test_json_is_what_the_api_says(run: Run, fake: FakeControl) -> None:
    """`status` is its three lists in one, and how the file is; keys that nobody knows stay."""
    fake.state["edges"][0]["new"] = {"key": "→"}
    for command, answer in (
        ("status", {**fake.state, "config": fake.config}),
        ("edges", {"edges": fake.state["edges"]}),
    ):
        assert json.loads(run(command, "--json")[1]) == answer
    assert json.loads(run("fault", "list", "--json")[1]) == {"faults": fake.state["faults"]}


def test_a_dotted_key_leaves_its_neighbours(run: Run, fake: FakeControl) -> None:
    """A header is added or taken back, the others stay; without a dot it is the whole table."""
    rule = {"service": "users", "kind": "hang", "headers": {"a": "1", "b.c": "2"}}
    fake.state["faults"] = [fault("x", rule=rule)]
    fake.answers["PATCH", "/api/faults/x"] = 200, fault("x")
    for pairs, sent in (
        (["headers.d=3", "times=1"], {"headers": {"a": "1", "b.c": "2", "d": "3"}, "times": 1}),
        (['headers."b.c"=', "headers.a=4"], {"headers": {"a": "4"}}),
        (["response_headers.x="], {"response_headers": {}}),
        (["headers={d = '3'}"], {"headers": {"d": "3"}}),
    ):
        assert run("fault", "set", "x", *pairs)[0] == 0
        assert fake.asked[-1] == ("PATCH", "/api/faults/x", sent)


def test_a_name_that_is_mistyped_makes_no_fault(run: Run, fake: FakeControl) -> None:
    """Without a service and a kind nothing new is meant: what there is, and what a new one needs."""
    fake.answers["PATCH", "/api/faults/slow"] = 404, problem(404, "no fault slow; there are slow-inventory")
    assert run("fault", "set", "slow", "seconds=2") == (
        2,
        "",
        "meshlite: no fault slow; there are slow-inventory\n"
        "meshlite: to make a new one, name its service and its kind\n",
    )
    assert [method for method, *_ in fake.asked] == ["PATCH"]


def test_a_fault_that_strikes_nothing_is_warned_of(run: Run, fake: FakeControl) -> None:
    """Below it, in the list and in the answer to a `set`."""
    fake.state["faults"] = [fault("x", warnings=["route: users has none like '/user'; it has /users, /users/{id}"])]
    fake.answers["PATCH", "/api/faults/x"] = 200, fake.state["faults"][0]
    for arguments in (["fault", "list"], ["fault", "set", "x", "route=/user"]):
        out = run(*arguments)[1].splitlines()
        assert out[2] == "  warning: route: users has none like '/user'; it has /users, /users/{id}"


def test_an_unknown_fault_is_made(run: Run, fake: FakeControl) -> None:
    """`set` changes, or else puts; one that is off says how to switch it on."""
    fake.answers["PUT", "/api/faults/x"] = 201, fault("x")
    code, out, _ = run("fault", "set", "x", "service=inventory", "kind=delay", "seconds=5")
    assert code == 0
    body = {"service": "inventory", "kind": "delay", "seconds": 5}
    assert fake.asked == [("PATCH", "/api/faults/x", body), ("PUT", "/api/faults/x", body)]
    assert unwrapped(out).endswith(f"it is off; switch it on: {PROGRAM} {shlex.join(fake.at)} fault enable x")


def test_clear_switches_off_what_is_on(run: Run, fake: FakeControl) -> None:
    """Without a name all that is on, and nothing is deleted."""
    fake.state["faults"] += [fault("off"), fault("second", enabled=True)]
    for name in ("slow-inventory", "second"):
        fake.answers["PATCH", f"/api/faults/{name}"] = 200, fault(name)
    code, out, _ = run("fault", "clear")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["slow-inventory", "off"], ["second", "off"]]
    assert [ask for ask in fake.asked if ask[0] != "GET"] == [
        ("PATCH", "/api/faults/slow-inventory", {"enabled": False}),
        ("PATCH", "/api/faults/second", {"enabled": False}),
    ]


def test_one_refusal_does_not_keep_the_others(run: Run, fake: FakeControl) -> None:
    """What was done is printed, what was not is said, exit 1; where nothing was, exit 2."""
    fake.answers["POST", "/api/services/users/start"] = 200, service("users", 8080)
    fake.answers["POST", "/api/services/orders/start"] = 409, problem(409, "cannot start orders: no")
    code, out, err = run("service", "start", "orders", "users")
    assert (code, err) == (1, "meshlite: cannot start orders: no\n")
    assert "users  running" in out
    assert run("service", "start", "orders") == (2, "", "meshlite: cannot start orders: no\n")


@pytest.mark.parametrize("action", ["enable", "disable", "clear", "delete"])
def test_one_unknown_name_and_nothing_is_done(run: Run, fake: FakeControl, action: str) -> None:
    """One line names what is unknown and what there is."""
    said = "meshlite: no fault a, b; there are slow-inventory. Nothing was changed\n"
    assert run("fault", action, "slow-inventory", "a", "b") == (2, "", said)
    said = "meshlite: no service billing; there are users, orders, inventory. Nothing was changed\n"
    assert run("service", "kill", "users", "billing") == (2, "", said)
    assert [method for method, *_ in fake.asked] == ["GET", "GET"]


def test_the_faults_that_are_named_are_listed(run: Run, fake: FakeControl) -> None:
    """One, or several; one that is unknown is said beside those that there are."""
    fake.answers["GET", "/api/faults/x"] = 200, fault("x")
    assert json.loads(run("fault", "list", "x", "--json")[1]) == {"faults": [fault("x")]}
    fake.answers["GET", "/api/faults/y"] = 404, problem(404, "no fault y; there are x")
    assert run("fault", "list", "y") == (2, "", "meshlite: no fault y; there are x\n")
    code, out, err = run("fault", "list", "y", "x")
    assert (code, out.splitlines()[1].split()[0], err) == (1, "x", "meshlite: no fault y; there are x\n")


def test_a_fault_is_deleted(run: Run, fake: FakeControl) -> None:
    """An answer without a body is an answer."""
    fake.state["faults"].append(fault("x"))
    for name in ("slow-inventory", "x"):
        fake.answers["DELETE", f"/api/faults/{name}"] = 204, b""
    assert run("fault", "delete", "slow-inventory", "x") == (0, "deleted: slow-inventory, x\n", "")
    assert json.loads(run("fault", "delete", "x", "--json")[1]) == {"deleted": ["x"]}
    assert [ask[1] for ask in fake.asked if ask[0] == "DELETE"] == [
        "/api/faults/slow-inventory",
        "/api/faults/x",
        "/api/faults/x",
    ]


def test_a_reset_that_fails_in_part_says_both(run: Run, fake: FakeControl) -> None:
    """What was done and what was not, for people and as JSON; exit 1."""
    report = {"faults": ["x"], "breakers": [], "services": ["users"], "not_started": ["orders"]}
    fake.answers["POST", "/api/reset"] = 409, problem(409, "cannot start orders: no", **report)
    shown = "faults off        x\nbreakers reset    none\nservices started  users\nnot started       orders\n"
    assert run("reset") == (1, shown, "meshlite: cannot start orders: no\n")
    code, out, _ = run("reset", "--json")
    assert (code, {**json.loads(out), **report}) == (1, json.loads(out))


@pytest.mark.parametrize("words", [["orders", "inventory"], ["orders->inventory"], ["orders→inventory"]])
def test_edges_can_be_one(run: Run, fake: FakeControl, words: list[str]) -> None:
    """Named by two words, or one with an arrow."""
    assert run("edges", *words) == (0, EDGE, "")
    assert json.loads(run("edges", *words, "--json")[1]) == {"edges": fake.state["edges"][1:2]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["users", "inventory"], "no edge users→inventory; there are users→orders, orders→inventory, orders→users"),
        (["orders"], "'orders': expected CALLER CALLEE, such as orders inventory, or 'orders->inventory' in quotes"),
        (["orders", "users", "x"], "'orders users x': expected CALLER CALLEE"),
        (["orders->"], "'orders->': expected CALLER CALLEE"),
    ],
)
def test_an_edge_that_is_none_is_said(run: Run, words: list[str], said: str) -> None:
    """With those that there are."""
    code, out, err = run("edges", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"meshlite: {said}")


NAME_IT = "name it in the config, or with --set control.token=TOKEN"
STRANGER = "what listens at URL is not a meshlite control plane: "
FIELDS = [
    {"pointer": "/seconds", "detail": "expected > 0"},
    {"pointer": "/a~1b/c", "detail": "unknown"},
    {"detail": "y"},
]
ANSWERS: list[tuple[int, Any, list[str]]] = [
    (404, problem(404, "there is no service x"), ["there is no service x"]),
    (409, problem(409, "x is stopped\33[2J already"), ["x is stopped\N{REPLACEMENT CHARACTER}[2J already"]),
    (422, problem(422, "no", errors=FIELDS), ["no", "seconds: expected > 0", "a/b.c: unknown", "y"]),
    (422, problem(422, "no", errors=[1, None]), ["no"]),
    (404, problem(404, "no route /api/edges; see /docs"), [STRANGER + "it has no route /api/edges"]),
    (500, {"title": "The service failed"}, ["The service failed"]),
    (401, problem(401, "x"), ["control.token is needed at URL: " + NAME_IT]),
    (421, problem(421, "see control.allowed_hosts"), ["URL is not a name of this mesh: see control.allowed_hosts"]),
    (404, b"<html>", [STRANGER + "it answers 404 Not Found"]),
    (302, b"", [STRANGER + "it answers 302 Found"]),
    (200, b"<html>hello", [STRANGER + "it answers with something else than a JSON object"]),
    (200, b"\xff", [STRANGER + "it answers with something else than a JSON object"]),
    (200, b"[" * 100_000, [STRANGER + "it answers with something else than a JSON object"]),
    (200, [], [STRANGER + "it answers with something else than a JSON object"]),
    (200, {"hello": "world"}, [STRANGER + "its /api/edges has no list of edges"]),
    (200, {"edges": 1}, [STRANGER + "its /api/edges has no list of edges"]),
]  # fmt: skip


@pytest.mark.parametrize(("http", "body", "said"), ANSWERS, ids=lambda case: str(case)[:30])
def test_a_refusal_is_said_in_lines_and_exit_2(
    run: Run, fake: FakeControl, http: int, body: Any, said: list[str]
) -> None:
    """The problem's detail and its errors; or that it is no meshlite that listens there."""
    fake.answers["GET", "/api/edges"] = http, body
    url = f"http://127.0.0.1:{fake.port}"
    expected = "".join(f"meshlite: {line.replace('URL', url)}\n" for line in said)
    assert run("edges") == run("edges", "--json") == (2, "", expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--set", "control.port=0"], "name the one to ask with --set control.port=PORT"),
        (["status", "--set", "policy.timeout=0"], "policy.timeout: expected a number above 0, got 0"),
        (["status", "--set", "x"], "--set 'x': expected KEY=VALUE, such as services.users.port=9080"),
        (["status", "--config", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["status", "--set", 'control.token="12345678\\n"'], "a text, in quotes, of printable characters"),
        (["fault", "set", "x", "seconds"], "'seconds': expected KEY=VALUE, such as seconds=2.5"),
        (["fault", "set", "x", "seconds=nan"], "JSON has no nan and no inf"),
        (
            ["fault", "set", "x", "statuses={503: 3}"],
            'statuses: neither TOML nor JSON: write a list as ["ok", "error"],',
        ),
        (["fault", "set", "x", "script=[ok]"], "script: neither TOML nor JSON"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_exit_2(run: Run, arguments: list[str], said: str) -> None:
    """And nothing is sent."""
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("meshlite: ")
    assert said in err


@pytest.mark.parametrize(
    "arguments",
    [["fault"], ["service", "stop"], ["service", "halt", "x"], ["reset", "--watch"],
     ["fault", "list", "--watch"], ["--watch", "reset"], ["--json", "serve"], ["fault", "set", "x"],
     ["breaker", "a", "b"], ["breaker", "a", "b", "half_open"], ["breaker", "reset"]],
)  # fmt: skip
def test_what_is_no_command_is_exit_2(run: Run, arguments: list[str]) -> None:
    """argparse says what there is."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (
            ["fault", "set", "f", "kind=reset", "--json", "service=users"],
            [("PUT", "/api/faults/f", {"kind": "reset", "service": "users"})],
        ),
        (
            ["service", "kill", "users", "--json", "orders", "--set", "mesh.seed=1", "inventory"],
            [("POST", f"/api/services/{name}/kill", None) for name in ("users", "orders", "inventory")],
        ),
        (["fault", "list", "--json", "x"], [("GET", "/api/faults/x", None)]),
    ],
)
def test_an_option_may_stand_between(
    run: Run, fake: FakeControl, arguments: list[str], asked: list[tuple[str, str, Any]]
) -> None:
    """What comes after it is as good as what comes before."""
    run(*arguments)
    assert fake.asked[-len(asked) :] == asked


def test_what_does_not_go_with_a_command_is_said_with_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Not with that of all commands."""
    for arguments, said in (
        (
            ["fault", "set", "f", "a=b", "--jsn", "c=d"],
            "meshlite fault set: error: unrecognized arguments: --jsn c=d\n",
        ),
        (["reset", "--json", "users"], "meshlite reset: error: unrecognized arguments: users\n"),
        (["reset", "--watch"], "meshlite reset: error: unrecognized arguments: --watch\n"),
        (["--watch", "reset"], "meshlite reset: error: --watch does not go with this command\n"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        err = capsys.readouterr().err
        assert err.startswith(f"usage: {said.partition(':')[0]} ")
        assert err.endswith(said)


def test_nothing_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    """One line: where, why, and how to start one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for arguments in (["status"], ["fault", "enable", "x", "y"], ["reset"]):
        assert main([*arguments, "--set", f"control.port={port}"]) == 3
        assert capsys.readouterr() == (
            "",
            f"meshlite: nothing answers at http://127.0.0.1:{port}: connection refused; "
            f"is the mesh running? start it with {PROGRAM} --set control.port={port}\n",
        )


def test_a_command_that_waits_for_a_drain_has_patience_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart may take as long as the grace of the stop before it, on top of what any question may."""
    monkeypatch.setattr("meshlite.remote._TIMEOUT", 0.1)
    body = b'{"name": "users", "url": "http://127.0.0.1:1", "state": "running", "in_flight": 0}'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                time.sleep(0.3)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        port = f"control.port={server.getsockname()[1]}"
        assert main(["service", "restart", "users", "--set", port, "--set", "mesh.shutdown_grace=5"]) == 0
        thread.join()
    assert "running" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (b"", 3, "the connection was closed;"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 3, "the connection was closed;"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 3, "the connection was closed;"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 2, "it does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", 2, "it does not speak HTTP"),
        (None, 3, "no answer in time;"),
    ],
)
def test_whoever_speaks_otherwise_is_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sent: bytes | None, code: int, said: str
) -> None:
    """A mesh that goes away meanwhile, one that hangs, and what is none at all."""
    monkeypatch.setattr("meshlite.remote._TIMEOUT", 0.1 if sent is None else 5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                if sent is None:
                    time.sleep(0.2)
                else:
                    connection.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["edges", "--set", f"control.port={server.getsockname()[1]}"]) == code
        thread.join()
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8090"),
        ("localhost", "http://localhost:8090"),
        ("0.0.0.0", "http://127.0.0.1:8090"),
        ("::", "http://[::1]:8090"),
        ("::1", "http://[::1]:8090"),
        ("192.0.2.1", "http://192.0.2.1:8090"),
    ],
)
def test_it_asks_where_the_config_says(host: str, url: str) -> None:
    """All addresses are asked at the loopback one."""
    assert Api(load(None, [f"mesh.host={host}", "control.token=a-secret"]), PROGRAM).url == url


def test_the_token_is_sent_where_there_is_one(run: Run, fake: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bearer, and to nobody else: no proxy is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run("edges")[0] == 0
    assert "Authorization" not in fake.headers[-1]
    assert run("edges", "--set", "control.token=a-secret")[0] == 0
    assert fake.headers[-1]["Authorization"] == "Bearer a-secret"
    fake.answers["GET", "/api/edges"] = 401, problem(401, "x")
    assert "control.token is wrong at" in run("edges", "--set", "control.token=a-secret")[2]


def test_set_and_config_go_anywhere(fake: FakeControl, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before the command, within it, after it; the later wins."""
    (tmp_path / "x.toml").write_text(f"[control]\nport = {fake.port}\n")
    config, wrong = ["--config", "x.toml"], ["--set", "control.port=1"]
    for arguments in (
        [*config, "fault", "list"],
        ["fault", *config, "list"],
        ["fault", "list", *config],
        [*wrong, "fault", *fake.at, "list"],
        ["fault", *wrong, "list", *fake.at],
        [*wrong, "fault", *wrong, "list", *fake.at],
        ["fault", *fake.at, "list", "--set", "mesh.seed=1"],
    ):
        assert main(arguments) == 0, capsys.readouterr().err
    assert main([*fake.at, "fault", "list", *wrong]) == 3


def test_a_file_that_is_no_toml_sends_nobody_to_another_mesh(
    fake: FakeControl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A wrong value keeps nobody from the mesh that the file names; where it cannot be read, none is named."""
    file = tmp_path / "x.toml"
    file.write_text(f"[control]\nport = {fake.port}\n[policy]\ntimeout = -1\n")
    assert main(["--config", str(file), "edges"]) == 0
    assert "the mesh is asked all the same" in capsys.readouterr().err
    asked = len(fake.headers)
    file.write_text(f"[control]\nport = {fake.port}\n[policy\n")
    assert main(["--config", str(file), "edges"]) == 2
    assert "say with --set control.port=PORT which mesh is meant" in capsys.readouterr().err
    assert len(fake.headers) == asked
    for at in (fake.at, ["--set", f'"control".port = {fake.port}'], ["--set", f"control={{port={fake.port}}}"]):
        assert main(["--config", str(file), "edges", *at]) == 0


def test_help_says_the_exit_codes_and_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts, and for people."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "COMMAND ..." in out
    assert re.search(r"^  3  no mesh answers there$", out, re.MULTILINE)


# From here on real processes: a terminal, a pipe, signals.


class Terminal:
    """A command on a terminal, of 80 columns; `seen` is what it has written."""

    def __init__(self, *arguments: str, lines: int = 30, columns: int = 80, **env: str) -> None:
        import fcntl
        import struct
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        environment |= {"TERM": "xterm", **env}
        self.process = subprocess.Popen([*READER, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.seen = ""

    def until(self, text: str, after: int = 0) -> None:
        ends = time.monotonic() + 10
        while text not in self.seen[after:]:
            assert time.monotonic() < ends, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65_536).decode()

    def end(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(10)
        try:
            while part := os.read(self._master, 65_536):
                self.seen += part.decode()
        except OSError:
            pass
        os.close(self._master)
        return code


def test_a_config_that_comes_through_a_pipe_names_its_mesh(
    fake: FakeControl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where something else in it is wrong: it can be read once only."""
    os.mkfifo(file := tmp_path / "c.toml")
    text = f"[control]\nport = {fake.port}\n[policy]\ntimeout = 'x'\n"
    (writer := threading.Thread(target=file.write_text, args=(text,))).start()
    assert main(["--config", str(file), "edges"]) == 0
    writer.join()
    assert "the mesh is asked all the same" in capsys.readouterr().err


def test_a_hint_asks_the_same_mesh_again_and_tells_no_token(
    fake: FakeControl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of two meshes in one folder, what is pasted must not break the other one."""
    fake.state["faults"] = [fault("x")]
    file = tmp_path / "two words.toml"
    file.write_text(f"[control]\nport = {fake.port}\n")
    secret = ("--set", "control.token=a-secret", "--set", 'control={"t\\u006fken"="a-secret", allowed_hosts=["a"]}')
    assert main(["--config", str(file), "--set", "log.level='info'", "status", *secret]) == 0
    hint = unwrapped(capsys.readouterr().out)
    words = shlex.split(hint.partition("try: ")[2])
    asked = ["--config", str(file), "--set", "log.level='info'", "--set", 'control.allowed_hosts=["a"]']
    assert words == [*shlex.split(PROGRAM), *asked, "fault", "enable", "x"]
    assert "secret" not in hint


def test_a_command_that_is_hinted_at_can_be_typed_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the folder it is shown in, also where a folder's name has spaces."""
    python = tmp_path / "two words" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    assert started_by() == "'two words/.venv/bin/python'"
    monkeypatch.chdir(tmp_path / "two words")
    assert started_by() == ".venv/bin/python"
    monkeypatch.chdir(python.parent)
    assert started_by() == "./python", "a word alone would be looked for in PATH"


@pytest.mark.slow
def test_a_terminal_has_colour_unless_it_is_not_wanted(fake: FakeControl) -> None:
    """Green, yellow, red, always with the word; none with NO_COLOR or on a dumb terminal."""
    terminal = Terminal(*fake.at, "status")
    assert terminal.end() == 0
    for shown in ("\33[32mrunning\33[0m", "\33[33mdraining\33[0m", "\33[31mopen\33[0m", "\33[32mclosed\33[0m"):
        assert shown in terminal.seen
    assert re.sub(r"\x1b\[\d*m", "", terminal.seen).replace("\r", "") == STATUS
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        terminal = Terminal(*fake.at, "status", **env)
        assert terminal.end() == 0
        assert terminal.seen.replace("\r", "") == STATUS


@pytest.mark.slow
def test_watch_draws_in_place_on_a_terminal() -> None:
    """In one write over the last one, as much as there is room for; it survives the mesh's absence; Ctrl-C is 0."""
    with FakeControl() as fake:
        terminal = Terminal(*fake.at, "status", "--watch", lines=12)
        terminal.until("more lines")
    terminal.until("nothing answers at")
    away = len(terminal.seen)
    with FakeControl(fake.port):
        terminal.until("more lines", after=away)
        assert terminal.end(signal.SIGINT) == 0
    assert "Traceback" not in terminal.seen
    first, *others = terminal.seen.split("\33[?25l\33[?7l")[1:]
    assert first.startswith("\r\33[Khttp://127.0.0.1:")
    assert first.count("\n") == 11, "one line stays free for the cursor"
    assert all(re.match(r"\x1b\[\d+A\r", other) for other in others)
    assert "in flight\33[0m\r\n" in first, "a line of 80 columns keeps its end"
    assert terminal.seen.endswith("\33[?7h\33[?25h\r\n")


@pytest.mark.slow
def test_watch_cuts_what_is_wider_than_the_terminal() -> None:
    """A command that is hinted at would lose its middle otherwise: its end would stand in the last column."""
    with FakeControl() as fake:
        for each in fake.state["services"]:
            each["state"] = "stopped"
        terminal = Terminal(*fake.at, "status", "--watch", columns=44, lines=60)
        terminal.until("\33[J")
        assert terminal.end(signal.SIGINT) == 0
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.seen).splitlines()
    assert max(map(len, drawn)) <= 44
    _, hint = drawn[drawn.index("  bring back what is down:") :][:2]
    assert hint.endswith("…")
    assert f"    {started_by()} -m meshlite {shlex.join(fake.at)}".startswith(hint[:-1])


@pytest.mark.slow
def test_watch_prints_again_into_a_pipe() -> None:
    """That the mesh is away is said once; when it is back, it goes on; Ctrl-C is 0 and silent."""
    with FakeControl() as fake:
        watching = subprocess.Popen(
            [*READER, *fake.at, "status", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        lines = iter(watching.stdout.readline, "")
        first = [line for line, _ in zip(lines, range(STATUS.count("\n") + 1), strict=False)]
        assert "".join(first) == STATUS + "\n"
    line = next(line for line in lines if "nothing answers" in line)
    assert line.startswith("meshlite: nothing answers at")
    time.sleep(1.5)
    assert next(lines) == "\n"
    with FakeControl(fake.port):
        assert next(lines) == "services\n", "said once, then it goes on"
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=10)
    assert (watching.returncode, err) == (0, "")


@pytest.mark.slow
def test_watch_with_json_keeps_stdout_clean() -> None:
    """A document a line on stdout, that the mesh is away on stderr."""
    with FakeControl() as fake:
        watching = subprocess.Popen(
            [*READER, *fake.at, "edges", "--watch", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline()) == {"edges": fake.state["edges"]}
    assert "nothing answers" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.stdout.read(), watching.stderr.read()
    watching.stdout.close()
    watching.stderr.close()
    assert (watching.wait(10), err) == (0, "")
    assert all(json.loads(line) == {"edges": fake.state["edges"]} for line in out.splitlines())


def test_watch_ends_where_waiting_does_not_help(run: Run, fake: FakeControl) -> None:
    """A wrong token stays wrong."""
    fake.answers["GET", "/api/edges"] = 401, problem(401, "x")
    assert run("edges", "--watch")[0] == 2


@pytest.mark.slow
def test_a_closed_pipe_and_a_poor_encoding_are_no_tracebacks(fake: FakeControl) -> None:
    """`status | head -1` ends quietly; what the encoding lacks becomes a question mark."""
    for arguments, env in ((["status"], {}), (["edges", "--watch"], {"PYTHONIOENCODING": "latin-1"})):
        command = subprocess.Popen(
            [*READER, *fake.at, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
        )
        assert command.stdout is not None
        assert command.stderr is not None
        if env:
            assert command.stdout.readline().startswith(b"users?orders")
        command.stdout.close()
        assert command.wait(10) == 0
        assert command.stderr.read() == b""
        command.stderr.close()
