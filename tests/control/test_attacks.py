"""The control plane, attacked: what is sent, and what is to come of it. docs/security.md says it in words."""

import asyncio
import hmac
import io
import json
import re
from pathlib import Path

import pytest

from meshlite.cli import main
from meshlite.config import load
from meshlite.control import guard
from meshlite.errors import ConfigError
from meshlite.lint import lint
from meshlite.telemetry import logs
from tests.conftest import StartMesh, World
from tests.control.conftest import Logging
from tests.wire.raw import Answer, connect, outcome, request, unharmed

CHANGES = {
    "POST /api/services/users/stop": b"",
    "POST /api/services/users/kill": b"",
    "POST /api/services/users/restart": b"",
    "PUT /api/edges/orders/users/breaker": b'{"mode": "forced_open"}',
    "POST /api/edges/orders/users/breaker/reset": b"",
    "PUT /api/faults/new": b'{"service": "users", "kind": "hang", "enabled": true}',
    "PATCH /api/faults/slow-inventory": b'{"enabled": true}',
    "DELETE /api/faults/slow-inventory": b"",
    "POST /api/reset": b"",
    "PUT /api/load": b'{"rate": 1}',
    "DELETE /api/load": b"",
}
"""Every operation that changes something, with a body that would do."""
FOREIGN, MISDIRECTED, NO_TOKEN = "403 foreign-origin", "421 misdirected", "401 unauthorized"
WRONG_TYPE, UNREADABLE = "415 unsupported-media-type", "400 malformed-request, closed"


def sent(*lines: str, target: str = "/api/reset", method: str = "POST") -> bytes:
    """A request of just these header lines; HOST stands for the port's own."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def own(data: bytes, world: World) -> bytes:
    """With HOST replaced by where the control plane is."""
    return data.replace(b"HOST", world.url("control").removeprefix("http://").encode())


async def seen(world: World) -> object:
    """All that an attack could have changed."""
    faults, edges = [(await world.get("control", f"/api/{what}")).json[what] for what in ("faults", "edges")]
    modes = [(edge["mode"], [breaker["state"] for breaker in edge["breakers"]]) for edge in edges]
    states = [(name, service.state) for name, service in world.mesh.services.items()]
    load = (await world.get("control", "/api/load")).json
    return faults, load, modes, states, len(world.logged("service.moved")), world.logged("config.applied")


async def nothing_moved(world: World, before: object) -> None:
    assert await seen(world) == before
    await unharmed(world, "control")


OF_ORIGINS = {
    "another site": "http://evil.example",
    "null, as of a sandbox or a file": "null",
    "empty": "",
    "another port of this machine": "http://127.0.0.1:1",
    "this machine without a port": "http://127.0.0.1",
    "another name of this machine": "http://localhost",
    "a longer name": "http://HOST.evil.example",
    "a name before an @": "http://HOST@evil.example",
    "a name behind an @": "http://evil.example@HOST",
    "a slash behind": "http://HOST/",
    "a dot behind the name": "http://127.0.0.1.:8090",
    "another scheme": "ftp://HOST",
    "a scheme in capitals": "HTTP://HOST",
    "no scheme": "HOST",
    "two in one": "http://HOST http://evil.example",
    "two in one, by a comma": "http://HOST, http://evil.example",
    "a tab within": "http://HOST\thttp://evil.example",
}


async def test_a_page_of_another_origin_changes_nothing(world: World) -> None:
    """Whatever its `Origin` looks like, on every route that changes something; not even with a body that is right."""
    before = await seen(world)
    for name, origin in OF_ORIGINS.items():
        assert await outcome(world, "control", own(sent("Host: HOST", f"Origin: {origin}"), world)) == FOREIGN, name
    for change, body in CHANGES.items():
        data = request(*change.split(" "), "Origin: http://evil.example", body=body)
        assert await outcome(world, "control", data) == FOREIGN, change
    await nothing_moved(world, before)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("Origin: http://HOST", "Origin: http://evil.example"), FOREIGN),
        (("Origin: http://evil.example", "Origin: http://HOST"), FOREIGN),
        (("Sec-Fetch-Site: cross-site",), FOREIGN),
        (("Sec-Fetch-Site: same-site",), FOREIGN),  # another port of this machine
        (("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"), FOREIGN),
        (("Sec-Fetch-Site: cross-site", "Origin: http://HOST"), FOREIGN),
        (("Sec-Fetch-Site: same-origin", "Origin: http://evil.example"), FOREIGN),
        (("Sec-Fetch-Site: same-origin", "Origin: http://HOST"), "200"),
        (("Sec-Fetch-Site: none",), "200"),
        (("Origin: http://HOST",), "200"),
        (("Referer: http://evil.example/",), "200"),  # says where a link stood, and is no promise
    ],
)
async def test_each_header_that_says_foreign_is_enough(world: World, lines: tuple[str, ...], expected: str) -> None:
    """The second `Origin`, or the browser's word for where the page is from."""
    assert await outcome(world, "control", own(sent("Host: HOST", *lines), world)) == expected


OF_HOSTS = {
    "a name that was rebound": (("Host: evil.example",), MISDIRECTED),
    "a name that was rebound, with the port": (("Host: evil.example:8090",), MISDIRECTED),
    "ours, and a longer one": (("Host: localhost.evil.example",), MISDIRECTED),
    "a dot behind": (("Host: localhost.",), MISDIRECTED),
    "a dot behind, and a port": (("Host: localhost.:8090",), MISDIRECTED),
    "ours before an @": (("Host: localhost@evil.example",), MISDIRECTED),
    "ours behind an @": (("Host: evil.example@localhost",), MISDIRECTED),
    "ours before a slash": (("Host: localhost/evil.example",), MISDIRECTED),
    "ours before a question mark": (("Host: localhost?evil.example",), MISDIRECTED),
    "ours before a number sign": (("Host: localhost#evil.example",), MISDIRECTED),
    "ours before a comma": (("Host: localhost, evil.example",), MISDIRECTED),
    "a scheme": (("Host: http://localhost",), MISDIRECTED),
    "a number for an address": (("Host: 2130706433",), MISDIRECTED),
    "a short address": (("Host: 127.1",), MISDIRECTED),
    "an address of all": (("Host: 0.0.0.0",), MISDIRECTED),
    "IPv4 within IPv6": (("Host: [::ffff:127.0.0.1]",), MISDIRECTED),
    "IPv6 without brackets": (("Host: ::1",), MISDIRECTED),
    "IPv6, not closed": (("Host: [::1",), MISDIRECTED),
    "IPv6, and more": (("Host: [::1]evil.example",), MISDIRECTED),
    "a port that is none": (("Host: localhost:http",), MISDIRECTED),
    "two ports": (("Host: localhost:80:80",), MISDIRECTED),
    "a port of other digits": (("Host: localhost:\xd9\xa1",), MISDIRECTED),
    "empty": (("Host: ",), MISDIRECTED),
    "none": ((), UNREADABLE),
    "two": (("Host: localhost", "Host: evil.example"), UNREADABLE),
    "two, ours last": (("Host: evil.example", "Host: localhost"), UNREADABLE),
    "a forwarded one": (
        ("Host: evil.example", "X-Forwarded-Host: localhost", "Forwarded: host=localhost"),
        MISDIRECTED,
    ),
    "ours": (("Host: localhost",), "200"),
    "ours, in capitals": (("Host: LOCALHOST",), "200"),
    "ours, with another port": (("Host: localhost:1",), "200"),
    "ours, with an empty port": (("Host: localhost:",), "200"),
    "IPv6": (("Host: [::1]:8090",), "200"),
}


async def test_a_name_that_is_not_ours_gets_nothing(world: World) -> None:
    """A page whose name was rebound to this machine bears its own `Host`; no spelling of one comes through."""
    for name, (lines, expected) in OF_HOSTS.items():
        assert await outcome(world, "control", sent(*lines)) == expected, name
        if expected == MISDIRECTED:  # to read is refused as well
            assert await outcome(world, "control", sent(*lines, target="/api/config", method="GET")) == expected, name
    await unharmed(world, "control")


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "http://evil.example/api/reset", MISDIRECTED),
        ("POST", "http://evil.example:8090/api/reset", MISDIRECTED),
        ("GET", "http://evil.example/api/config", MISDIRECTED),
        ("POST", "http://evil.example@localhost/api/reset", "200"),  # whom it names is no host
        ("POST", "http://localhost@evil.example/api/reset", MISDIRECTED),
        ("POST", "http://localhost/api/reset", "200"),
        ("POST", "http://[::1]:8090/api/reset", "200"),
        ("POST", "//evil.example/api/reset", "404 not-found"),
        ("CONNECT", "evil.example:443", MISDIRECTED),
    ],
)
async def test_a_host_in_the_request_line_counts_too(world: World, method: str, target: str, expected: str) -> None:
    """A proxy may send it there; a good `Host` beside it does not help."""
    assert await outcome(world, "control", request(method, target)) == expected
    await unharmed(world, "control")


@pytest.mark.parametrize("allowed", ["", "[", "a/b", "http://mesh.internal"])
async def test_a_name_that_is_none_allows_nobody(start_mesh: StartMesh, allowed: str) -> None:
    """What cannot be a host in `control.allowed_hosts` lets no request in that has none either."""
    world = await start_mesh(f"control.allowed_hosts=[{json.dumps(allowed)}]")
    for host in ("", "[", "a/b", "evil.example", "http"):
        assert await outcome(world, "control", sent(f"Host: {host}")) == MISDIRECTED, host


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "TEXT/PLAIN; charset=utf-8",
        "text/plain; application/json",
    ],
)
async def test_a_form_changes_nothing(world: World, kind: str) -> None:
    """Every way in which a page can post without asking first is 415, though it bear no `Origin`, and be JSON."""
    before = await seen(world)
    for change, body in CHANGES.items():
        assert await outcome(world, "control", request(*change.split(" "), body=body or b"{}", kind=kind)) == WRONG_TYPE
    await nothing_moved(world, before)


async def test_the_changes_are_all_there_are(world: World) -> None:
    """The routes that are attacked here are those of the document."""
    paths = (await world.get("control", "/openapi.json")).json["paths"]
    there = {f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "get"}
    assert {change.split(" ")[0] for change in CHANGES} == {operation.split(" ")[0] for operation in there}
    assert len(there) == 9
    for operation in there:
        method, path = operation.split(" ")
        assert {"403", "415"} <= set(paths[path][method.lower()]["responses"]), operation


async def test_no_preflight_is_answered_with_leave(world: World) -> None:
    """Nothing has a header `Access-Control-…`, whatever is asked."""
    before = await seen(world)
    targets = [*CHANGES, "GET /api/config", "GET /api/events", "GET /metrics", "GET /healthz", "GET /docs", "GET /none"]
    for target in targets:
        method, path = target.split(" ")
        asking = (f"Access-Control-Request-Method: {method}", "Access-Control-Request-Headers: content-type")
        private = "Access-Control-Request-Private-Network: true"
        methods = ("OPTIONS",) if path == "/api/events" else ("OPTIONS", "GET")
        for verb in methods:
            answer = await exchanged(world, request(verb, path, "Origin: http://evil.example", *asking, private))
            assert not [name for name in answer.headers if name.startswith("Access-Control")], (verb, path)
            assert verb == "GET" or answer.status in (404, 405)
    await nothing_moved(world, before)


async def exchanged(world: World, data: bytes) -> Answer:
    wire = await connect(world, "control")
    try:
        await wire.send(data)
        answer = await wire.answer()
        assert answer is not None
        return answer
    finally:
        await wire.close()


async def test_no_get_changes_anything(world: World) -> None:
    """Neither does HEAD or OPTIONS, nor a header or a parameter that names another method."""
    before = await seen(world)
    override = ("X-HTTP-Method-Override: POST", "X-HTTP-Method: POST", "X-Method-Override: POST")
    for change in CHANGES:
        _, path = change.split(" ")
        for method in ("GET", "HEAD", "OPTIONS"):
            for target in (path, f"{path}?_method=POST"):
                answer = await world.ask(method, "control", target, headers=dict(line.split(": ") for line in override))
                found = path == "/api/faults/slow-inventory" and target == path
                looked = (found or target == "/api/load") and method != "OPTIONS"  # which can be read, too
                assert answer.status in ((200,) if looked else (404, 405, 422)), (method, target)
    await nothing_moved(world, before)


TOKEN = "s3cret-token-ünd-mehr"


def bearing(value: str, target: str = "/api/config", method: str = "GET") -> bytes:
    return sent("Host: localhost", f"Authorization: {value.encode().decode('latin-1')}", target=target, method=method)


OF_TOKENS = {
    "another": bearing("Bearer wrong-token"),
    "its beginning": bearing(f"Bearer {TOKEN[:-1]}"),
    "more than it": bearing(f"Bearer {TOKEN}x"),
    "in capitals": bearing(f"Bearer {TOKEN.upper()}"),
    "empty": bearing("Bearer "),
    "no scheme": bearing(TOKEN),
    "Basic": bearing(f"Basic {TOKEN}"),
    "Basic, as it should be": bearing("Basic OnMzY3JldC10b2tlbi3DvG5kLW1laHI="),
    "two in one": bearing(f"Bearer wrong-token, Bearer {TOKEN}"),
    "a quoted one": bearing(f'Bearer "{TOKEN}"'),
    "no UTF-8": bearing("Bearer x").replace(b"x\r", b"\xff\xfe\r"),
    "very long": bearing("Bearer " + "A" * 30_000),
    "in the query": sent("Host: localhost", target="/api/config?token=s3cret&access_token=s3cret", method="GET"),
    "in a cookie": sent("Host: localhost", f"Cookie: token={TOKEN[:12]}", target="/api/config", method="GET"),
    "where nothing is": bearing("Bearer wrong-token", "/nowhere"),
    "an upgrade": sent(
        "Host: localhost", "Connection: upgrade", "Upgrade: websocket", target="/api/events", method="GET"
    ),
    "a probe's other spelling": sent("Host: localhost", target="/healthz/", method="GET"),
    "a probe's path in a longer one": sent("Host: localhost", target="/healthz/../api/config", method="GET"),
}


async def test_nobody_gets_in_without_the_token(start_mesh: StartMesh) -> None:
    """401 on every route but the probes and the dashboard's files, whatever is sent in its place."""
    world = await start_mesh(f"control.token={TOKEN}")
    for name, data in OF_TOKENS.items():
        ended = ", closed" if name == "an upgrade" else ""
        assert await outcome(world, "control", data) == NO_TOKEN + ended, name
    for change, body in CHANGES.items():
        assert await outcome(world, "control", request(*change.split(" "), body=body)) == NO_TOKEN, change
    paths = ["/api/services", "/api/events", "/api/logs", "/metrics", "/openapi.json", "/docs", "/docs/start.js"]
    paths += ["/api/overview", "/api/history", "/api/load", "/page", "/page/", "/page/none.js", "/page/../api/config"]
    for path in (*paths, "//", "/page/main.js/", "/page/%2e%2e/api/config", "/page/..%2fpage.py"):
        assert await outcome(world, "control", request("GET", path)) == NO_TOKEN, path
    for path in ("/", "/page/main.js", "/page/%6dain.js"):
        assert await outcome(world, "control", request("GET", path)) == "200", path
    assert await outcome(world, "control", request("POST", "/")) == "405 method-not-allowed"
    assert await outcome(world, "control", bearing(f"Bearer {TOKEN}")) == "200"
    assert await outcome(world, "control", bearing(f"bearer {TOKEN}")) == "200"
    assert {service.state for service in world.mesh.services.values()} == {"running"}
    await unharmed(world, "control")


async def test_the_token_is_compared_in_constant_time(start_mesh: StartMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, whole, for a right one and a wrong one."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return real(given, wanted)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    world = await start_mesh(f"control.token={TOKEN}")
    for value in ("Bearer x", f"Bearer {TOKEN}"):
        await outcome(world, "control", bearing(value))
    assert compared == [(b"x", TOKEN.encode()), (TOKEN.encode(), TOKEN.encode())]


async def test_the_token_is_told_to_nobody(logging: Logging, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by the config, the log, an error, an event, a metric, nor by `status` and `check`."""
    world, log = await logging("control.token=s3cret-token")
    right = {"Authorization": "Bearer s3cret-token"}
    async with world.client.get(world.url("control") + "/api/events", headers=right) as stream:
        told = b""
        for path in ("/api/config", "/api/services", "/api/edges", "/api/faults", "/metrics", "/openapi.json", "/none"):
            told += (await world.get("control", path, headers=right)).body
            told += (await world.get("control", path, headers={"Authorization": "Bearer s3cret-toke"})).body
        await world.ask("PATCH", "control", "/api/faults/slow-inventory", {"x": 1}, headers=right)
        await world.ask("PATCH", "control", "/api/faults/slow-inventory", {"enabled": True}, headers=right)
        world.mesh.inforce.take_up(lambda: load(None, ["control.token=s3cret", "mesh.seed=x"]))
        world.mesh.inforce.take_up(lambda: load(None, ["control.token=s3cret-other"]))
        told += (await world.get("control", "/api/logs?limit=1000", headers=right)).body
        async with asyncio.timeout(5):
            while b"config.deferred" not in told:
                told += await stream.content.readany()
    assert b"config.rejected" in told
    log.writer.close()
    port = world.url("control").rpartition(":")[2]
    arguments = ["--set", "control.token=s3cret-token", "--set", f"control.port={port}"]
    for command in (["status"], ["status", "--json"], ["edges"], ["check"]):
        assert await asyncio.to_thread(main, [*command, *arguments]) == 0
    assert await asyncio.to_thread(main, ["status", *arguments[:1], "control.token=s3cret-other", *arguments[2:]]) == 2
    assert b"s3cret" not in told
    assert "s3cret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "given",
    [
        "control.token=",
        "control.token='s3cret-token '",
        'control.token="s3cret-\\ntoken"',
        'control.token="s3cret-\\u001b[2J"',
        "control.token=s3cret-\udcff-token",
        "control.token:s3cret-token",
        "control='s3cret-token'",
        "control.tokens=s3cret-token",
        "control.token.x=s3cret-token",
    ],
)
def test_a_token_that_will_not_do_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Empty, of characters that no header carries, in the wrong place: the error names the key alone."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(None, [given])
    said = "\n".join(caught.value.problems)
    assert "control" in said
    assert "s3cret" not in said


async def test_a_page_under_any_name_of_ours_may_change_something(world: World) -> None:
    """The dashboard is the same by each name of this machine that it may be called by."""
    port = world.url("control").rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]"):
        for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST"):
            asked = f"POST /api/reset HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{name}:{port}\r\n\r\n"
            assert (await outcome(world, "control", asked.encode())).startswith("200"), (host, name)


async def test_a_page_of_the_visitors_own_machine_is_none_of_ours_by_another_name(start_mesh: StartMesh) -> None:
    """Behind a proxy the name is not this machine's: what the visitor calls localhost is another one."""
    world = await start_mesh("control.allowed_hosts=['mesh.example']")
    for origin, expected in (
        ("http://localhost", FOREIGN),
        ("https://127.0.0.1", FOREIGN),
        ("http://mesh.example:81", FOREIGN),
        ("https://mesh.example", "200"),
        ("http://MESH.example", "200"),
    ):
        asked = sent("Host: mesh.example", f"Origin: {origin}")
        assert await outcome(world, "control", asked) == expected, origin


def test_a_token_in_a_file_that_is_no_text_is_not_quoted(tmp_path: Path) -> None:
    """A number that was meant as one: it needs quotes."""
    file = tmp_path / "config.toml"
    for value in ("17031703", "['17031703']", "{x = 17031703}"):
        file.write_text(f"[control]\ntoken = {value}\n")
        with pytest.raises(ConfigError, match=r"control\.token: expected a text, in quotes") as caught:
            load(file)
        assert "1703" not in str(caught.value.problems)


def test_a_short_token_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind `--set` it needs no quotes; a short one will do, with a warning that it can be guessed."""
    monkeypatch.chdir(tmp_path)
    for given, token in (("17031703", "17031703"), ('"1 7"', "1 7"), ("true", "true"), ("[a]", "[a]")):
        config = load(None, [f"control.token={given}"])
        assert config.control.token == token
        (warning,) = lint(config)
        assert warning == f"control.token: {len(token)} characters can be guessed: take 16 or more, at random"
    assert lint(load(None, ["control.token=" + "x" * 16])) == []


FORGED = 'x\r\n{"event":"forged"}\n2026-01-01 00:00:00 [error] forged\x1b[2J\x85\u2028\x9b'
ESCAPED = "x%0D%0A%7B%22event%22:%22forged%22%7D%0A%1B%5B2J%C2%85%E2%80%A8%C2%9B"
OF_LOGS = {
    "a path": ("control", request("GET", f"/api/{ESCAPED}")),
    "a path of a service": ("users", request("GET", f"/{ESCAPED}")),
    "a query": ("users", request("GET", f"/users?{ESCAPED}={ESCAPED}")),
    "a fault's name": ("control", request("PUT", f"/api/faults/{ESCAPED}", body=CHANGES["PUT /api/faults/new"])),
    "a fault that is not there": ("control", request("DELETE", f"/api/faults/{ESCAPED}")),
    "a service's name": ("control", request("POST", f"/api/services/{ESCAPED}/stop")),
    "a key": ("control", request("PATCH", "/api/faults/slow-inventory", body=json.dumps({FORGED: 1}).encode())),
    "a value": ("control", request("PATCH", "/api/faults/slow-inventory", body=json.dumps({"route": FORGED}).encode())),
    "a caller": ("users", request("GET", "/users/1", "X-Envoy-Downstream-Service-Cluster: a\x1b[2Jb")),
    "an id": ("users", request("GET", "/users/1", 'X-Request-Id: a","event":"forged')),
    "an id of C1": ("users", sent("Host: a", "X-Request-Id: \x9b2J\x85", target="/users/1", method="GET")),
    "an id of two lines": ("users", sent("Host: a", "X-Request-Id: a\n forged", target="/users/1", method="GET")),
    "a trace": ("users", request("GET", "/users/1", "Traceparent: forged", "Tracestate: \x1b[2J")),
    "an idempotency key": (
        "orders",
        sent("Host: a", "Idempotency-Key: \x1b[2Jforged", "Content-Length: 0", target="/orders"),
    ),
    "a method": ("users", sent("Host: a", method="FORGED\x1b[2J", target="/users")),
    "a host": ("control", sent("Host: forged\x1b[2J")),
    "a token": ("control", sent("Host: localhost", "Authorization: Bearer forged\x1b[2J")),
}


@pytest.mark.parametrize("style", ["json", "console"])
async def test_no_line_of_the_log_is_forged(start_mesh: StartMesh, style: str) -> None:
    """Whatever is sent: each request has one line, and none has a character of its own making."""
    world = await start_mesh()
    out = io.BytesIO()
    log, access, writer, *_ = logs.make(out, style, "debug")
    logs.listen(world.mesh.bus, log, access)
    for service, data in OF_LOGS.values():
        assert "forged" not in await outcome(world, service, data)
    for _ in range(200):
        if all(not boundary.in_flight for boundary in world.mesh._control_boundary):
            break
        await asyncio.sleep(0.01)
    writer.close()
    lines = out.getvalue().decode().split("\n")
    assert len(lines) > len(OF_LOGS)
    for line in filter(None, lines):
        assert line.isprintable()
        assert "forged" not in line.lower()
        assert style == "console" or json.loads(line)["event"] in ("request.completed", "config.applied")


@pytest.mark.parametrize("style", ["json", "console"])
def test_what_an_error_quotes_is_no_line_of_its_own(style: str) -> None:
    """A crash's lines are indented in a terminal, and without what moves its cursor; in JSON they are one."""
    out = io.BytesIO()
    log, _, writer, *_ = logs.make(out, style, "debug")
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("request.crashed", route=FORGED)
    log.warning("library.reported", message=FORGED, listed=[FORGED], keyed={FORGED: FORGED})
    writer.close()
    lines = out.getvalue().decode().rstrip("\n").split("\n")
    for line in lines:
        assert "\x1b" not in line and "\r" not in line
        if style == "console":
            assert line.isprintable()
    begun = [line for line in lines if not line.startswith("    ")]
    assert [("request.crashed" in line, "library.reported" in line) for line in begun] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    "given",
    [
        f"services.users.app={FORGED}",
        f"mesh.host={FORGED}",
        f"faults.{FORGED.replace('.', '')}.kind=hang",
        f"{FORGED}.x=1",
        FORGED,
        f"control.token={FORGED}"[:20],
        f"faults.f={{service='users', kind='error', status=500, response_headers={{a={json.dumps(FORGED)}}}}}",
        f"faults.f={{service='users', kind='hang', headers={{{json.dumps(FORGED)}='x'}}}}",
    ],
)
def test_what_is_set_begins_no_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    """`--set` with control characters is refused, each problem in a line that begins as ours do."""
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--set", given]) == 2
    for line in capsys.readouterr().err.removesuffix("\n").split("\n"):
        assert line.startswith("meshlite: ")
        assert line.isprintable()


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\nb", "a\x00", "a\x1b[2J"])
async def test_a_fault_smuggles_no_header(world: World, value: str) -> None:
    """A value of two lines is 422, so that it cannot split an answer."""
    rule = {"service": "users", "kind": "error", "status": 500, "enabled": True}
    for key in ("headers", "response_headers"):
        for headers in ({"X": value}, {value: "x"}):
            answer = await world.ask("PUT", "control", "/api/faults/new", {**rule, key: headers})
            assert (answer.status, answer.headers.get("Set-Cookie")) == (422, None)


@pytest.mark.parametrize("service", ["users", "control"])
async def test_the_docs_are_in_nobodys_frame(world: World, service: str) -> None:
    """No other page can lay itself over them; and what is sent is what it says it is."""
    page = await world.get(service, "/docs")
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy)
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css"):
        assert (await world.get(service, path)).headers["X-Content-Type-Options"] == "nosniff"


async def test_what_it_answers_is_kept_by_nobody(start_mesh: StartMesh) -> None:
    """Not by a cache, not by another site's page, and never taken for a script; refusals too."""
    world = await start_mesh("control.token=s3cret-token")
    right = {"Authorization": "Bearer s3cret-token"}
    for path, headers in (
        ("/api/config", right),
        ("/api/logs", right),
        ("/metrics", right),
        ("/none", right),
        ("/api/config", {}),
        ("/api/config", {"Host": "evil.example"}),
        ("/healthz", {}),
    ):
        answer = await world.get("control", path, headers=headers)
        assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    async with world.client.get(world.url("control") + "/api/events", headers=right) as stream:
        assert stream.headers.getall("Cache-Control") == ["no-store"]
        assert stream.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_table_has_a_row_for_each() -> None:
    """docs/security.md: attack, expected, seen, and a test that there is; and no test without its row."""
    text = (Path(__file__).parents[2] / "docs/security.md").read_text().partition("## The control plane, attacked")[2]
    named = re.findall(r"^\|.*\|.*\|.*\| `(test_\w+)` \|$", text, re.MULTILINE)
    here = {name for name in globals() if name.startswith("test_")}
    assert sorted(named) == sorted(here - {"test_the_changes_are_all_there_are", "test_the_table_has_a_row_for_each"})


async def test_an_empty_body_is_none_whatever_it_is_declared_as(world: World) -> None:
    """Clients that always name a type may stop a service too."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/octet-stream"):
        empty = request("POST", "/api/reset", f"Content-Type: {kind}", "Content-Length: 0")
        assert (await outcome(world, "control", empty)).startswith("200")
