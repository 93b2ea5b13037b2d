"""Whatever is thrown at a port: 4xx in the one shape or a closed connection, and the process serves on."""

import asyncio

import pytest

from tests.conftest import StartMesh, World
from tests.wire.raw import GOOD, connect, outcome, request, unharmed

PORTS = ["users", "orders", "inventory", "control"]
H = "Host: localhost"


def wire(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    return wire("POST /healthz HTTP/1.1", H, "Transfer-Encoding: chunked", body=b"".join(pieces))


MALFORMED = "400 malformed-request, closed"
ANYWHERE = {
    # where requests begin and end
    "both lengths": (
        wire("POST / HTTP/1.1", H, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        MALFORMED,
    ),
    "two lengths": (wire("POST / HTTP/1.1", H, "Content-Length: 2", "Content-Length: 3", body=b"{}"), MALFORMED),
    "a negative length": (wire("POST / HTTP/1.1", H, "Content-Length: -1"), MALFORMED),
    "a signed length": (wire("POST / HTTP/1.1", H, "Content-Length: +2", body=b"{}"), MALFORMED),
    "a length beyond 64 bits": (wire("POST / HTTP/1.1", H, "Content-Length: " + "9" * 30), MALFORMED),
    "the largest length": (
        wire("POST / HTTP/1.1", H, "Content-Length: 18446744073709551615"),
        "413 body-too-large, closed",
    ),
    "a tebibyte": (wire("POST / HTTP/1.1", H, "Content-Length: 1099511627776"), "413 body-too-large, closed"),
    "a tebibyte, asked first": (
        wire("POST / HTTP/1.1", H, "Content-Length: 1099511627776", "Expect: 100-continue"),
        "413 body-too-large, closed",
    ),
    "a chunk without a size": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk that is longer": (chunked(b"2\r\n{}}}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk beyond 64 bits": (chunked(b"F" * 17 + b"\r\n{}"), MALFORMED),
    "a chunk's size in hex, said so": (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a negative chunk": (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a space behind a chunk's size": (chunked(b"2 \r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk with an extension": (chunked(b'2;a="b"\r\n{}\r\n0\r\n\r\n'), "405 method-not-allowed"),
    "bare LF behind an extension": (chunked(b"2;a\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a trailer": (chunked(b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"), "405 method-not-allowed"),
    "a trailer of other lengths": (
        chunked(b"2\r\n{}\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n"),
        MALFORMED,
    ),
    "trailers without end": (chunked(b"0\r\n" + b"X: y\r\n" * 10_000), "431 header-too-large, closed"),
    "a coding of the transfer": (wire("POST / HTTP/1.1", H, "Transfer-Encoding: gzip", body=b"{}"), MALFORMED),
    "two codings": (
        wire("POST / HTTP/1.1", H, "Transfer-Encoding: gzip, chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        MALFORMED,
    ),
    "bare LF": (GOOD.replace(b"\r\n", b"\n"), MALFORMED),
    "bare CR": (GOOD.replace(b"\r\n", b"\r"), MALFORMED),
    "a folded header": (wire("GET /healthz HTTP/1.1", H, "X: a", " b"), MALFORMED),
    "empty lines before it": (b"\r\n\r\n\r\n" + GOOD, "200"),
    # characters
    "NUL in the path": (wire("GET /\0 HTTP/1.1", H), MALFORMED),
    "NUL, escaped": (request("GET", "/%00"), "404 not-found"),
    "NUL in a header": (wire("GET / HTTP/1.1", H, "X: a\0b"), MALFORMED),
    "a header without a name": (wire("GET / HTTP/1.1", H, ": b"), MALFORMED),
    "a space before the colon": (wire("GET / HTTP/1.1", H, "X : b"), MALFORMED),
    "a path that is no ASCII": (wire("GET /\xff\xfe HTTP/1.1", H), MALFORMED),
    "an escape that is none": (request("GET", "/%zz"), "404 not-found"),
    "an id that would break a line": (wire("GET /healthz HTTP/1.1", H, "X-Request-Id: a\x0b{}"), MALFORMED),
    # versions, methods, other protocols
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n", "200, closed"),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", MALFORMED),
    "HTTP/1.2": (wire("GET /healthz HTTP/1.2", H), MALFORMED),
    "HTTP/2.0": (wire("GET /healthz HTTP/2.0", H), MALFORMED),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(100), MALFORMED),
    "nonsense": (b"\x00\xff" * 50 + b"\r\n\r\n", MALFORMED),
    "no host": (wire("GET /healthz HTTP/1.1"), MALFORMED),
    "two hosts": (wire("GET /healthz HTTP/1.1", H, "Host: b"), MALFORMED),
    "an unknown method": (request("FROB", "/"), MALFORMED),
    "a long method": (request("A" * 5_000, "/"), MALFORMED),
    "a method in small letters": (request("get", "/healthz"), MALFORMED),
    "OPTIONS": (request("OPTIONS", "/healthz"), "405 method-not-allowed"),
    "TRACE": (request("TRACE", "/healthz"), "405 method-not-allowed"),
    "CONNECT": (request("CONNECT", "localhost:443"), "404 not-found"),
    "asterisk-form": (request("OPTIONS", "*"), "404 not-found"),
    "asterisk-form, of GET": (request("GET", "*"), MALFORMED),
    "absolute-form": (request("GET", "http://localhost/healthz"), "200"),
    "absolute-form without a host": (request("GET", "http:///healthz"), MALFORMED),
    "an expectation": (request("GET", "/healthz", "Expect: miracles"), "417 expectation-failed"),
    "an upgrade to web sockets": (
        request("GET", "/healthz", "Connection: upgrade", "Upgrade: websocket"),
        "200, closed",
    ),
    "an upgrade to HTTP/2": (request("GET", "/healthz", "Connection: upgrade", "Upgrade: h2c"), "200, closed"),
    "an upgrade that is none": (request("GET", "/healthz", "Upgrade: h2c"), "200"),
    # files
    "a file outside": (request("GET", "/docs/..%2f..%2fetc%2fpasswd"), "404 not-found"),
    "a file outside, plainly": (request("GET", "/docs/../../../../etc/passwd"), "404 not-found"),
    "a file outside, by an escaped dot": (request("GET", "/docs/%2e%2e/problems.py"), "404 not-found"),
    "a file outside, by a backslash": (request("GET", "/docs/..%5c..%5cproblems.py"), "404 not-found"),
    "an absolute file": (request("GET", "/docs/%2fetc%2fpasswd"), "404 not-found"),
    "a file with a NUL": (request("GET", "/docs/swagger-ui.css%00.js"), "404 not-found"),
    "another spelling of a path": (request("GET", "//healthz"), "404 not-found"),
    "a range that is none": (request("GET", "/docs/swagger-ui.css", "Range: bytes=999999999-"), "200"),
}


@pytest.mark.looptime
@pytest.mark.parametrize("service", PORTS)
async def test_whatever_is_thrown_at_a_port_is_answered_or_closed(start_mesh: StartMesh, service: str) -> None:
    """Each port, each thing: status and type in the one shape, and whether the connection goes on; never a 500."""
    world = await start_mesh()
    found = {}
    for name, (data, _) in ANYWHERE.items():
        found[name] = await outcome(world, service, data)
        await unharmed(world, service)
    assert found == {name: expected for name, (_, expected) in ANYWHERE.items()}


def user(text: str) -> bytes:
    return request("POST", "/users", body=text.encode())


def order(text: str) -> bytes:
    return request("POST", "/orders", body=text.encode())


def product(text: str) -> bytes:
    return request("PUT", "/inventory/NEW", body=text.encode())


def fault(text: str) -> bytes:
    return request("PUT", "/api/faults/new", body=text.encode())


def line(quantity: str) -> bytes:
    return order(f'{{"user_id": 1, "items": [{{"sku": "SKU-1", "quantity": {quantity}}}]}}')


BAD, UNREADABLE, WRONG_TYPE = "422 invalid-fields", "400 malformed-request", "415 unsupported-media-type"
OF_A_SERVICE = {
    "users": {
        "no UTF-8": (request("POST", "/users", body=b'{"name": "\xff"}'), UNREADABLE),
        "a lone surrogate": (user('{"name": "\\ud800", "email": "a@example.com"}'), UNREADABLE),
        "a lone surrogate, in UTF-8": (request("POST", "/users", body=b'{"name": "\xed\xa0\x80"}'), UNREADABLE),
        "nested deeply": (user("[" * 100_000), UNREADABLE),
        "nested in an unknown field": (user('{"x": ' + "[" * 900 + "]" * 900 + "}"), BAD),
        "nested deeply in an unknown field": (user('{"x": ' + "[" * 9_000 + "]" * 9_000 + "}"), UNREADABLE),
        "not closed": (user('{"name": "A"'), UNREADABLE),
        "NaN": (user("NaN"), UNREADABLE),
        "a blank name": (user('{"name": " \u00a0 ", "email": "a@example.com"}'), BAD),
        "an empty name": (user('{"name": "", "email": "a@example.com"}'), BAD),
        "a name of two lines": (user('{"name": "A\\n{}", "email": "a@example.com"}'), BAD),
        "a long name": (user(f'{{"name": "{"A" * 201}", "email": "a@example.com"}}'), BAD),
        "null": (user('{"name": null, "email": "a@example.com"}'), BAD),
        "two keys, one of them wrong": (user('{"name": "", "name": "B", "email": "b@example.com"}'), BAD),
        "compressed": (
            request("POST", "/users", "Content-Encoding: gzip", body=b"\x1f\x8b\x08\x00junk"),
            WRONG_TYPE,
        ),
        "a form": (request("POST", "/users", body=b"name=A", kind="application/x-www-form-urlencoded"), UNREADABLE),
        "a form of parts": (
            request("POST", "/users", body=b"--x--", kind="multipart/form-data; boundary=x"),
            WRONG_TYPE,
        ),
        "a page's form": (request("POST", "/users", "Origin: null", body=b"{}", kind="text/plain"), WRONG_TYPE),
        "a page's bytes": (wire("POST /users HTTP/1.1", H, "Origin: x", "Content-Length: 2", body=b"{}"), WRONG_TYPE),
        "plain text": (request("POST", "/users", body=b"{}", kind="text/plain"), BAD),
        "UTF-16": (request("POST", "/users", body=b"{}", kind="application/json; charset=utf-16"), WRONG_TYPE),
        "no type": (wire("POST /users HTTP/1.1", H, "Content-Length: 2", body=b"{}"), BAD),
        "a type that is none": (request("POST", "/users", body=b"{}", kind=";;;"), BAD),
        "two types": (request("POST", "/users", "Content-Type: text/plain", body=b"{}"), MALFORMED),
        "no body": (wire("POST /users HTTP/1.1", H, "Content-Type: application/json"), UNREADABLE),
        "another spelling of an id": (request("GET", "/users/01"), "404 not-found"),
        "a signed id": (request("GET", "/users/+1"), "404 not-found"),
        "a negative id": (request("GET", "/users/-1"), "404 not-found"),
        "an id of other digits": (request("GET", "/users/%D9%A1"), "404 not-found"),
        "a huge id": (request("GET", "/users/" + "9" * 18), "404 not-found"),
        "an id beyond 64 bits": (request("GET", "/users/" + "9" * 30), "404 not-found"),
        "an unknown parameter": (request("GET", "/users?frob=1"), BAD),
        "an unknown parameter of one": (request("GET", "/users/1?limit=1"), BAD),
        "a parameter where none is known": (request("DELETE", "/users/1?really=no"), BAD),
        "a parameter twice": (request("GET", "/users?limit=1&limit=2"), BAD),
        "a limit of 01": (request("GET", "/users?limit=01"), BAD),
        "a limit of +1": (request("GET", "/users?limit=%2B1"), BAD),
        "a limit of 1.0": (request("GET", "/users?limit=1.0"), BAD),
        "a limit of 1e1": (request("GET", "/users?limit=1e1"), BAD),
        "a limit of many digits": (request("GET", "/users?limit=" + "9" * 5_000), BAD),
        "a limit that is no UTF-8": (request("GET", "/users?limit=%ff"), BAD),
        "a made-up cursor": (request("GET", "/users?cursor=made-up"), UNREADABLE),
        "a cursor of another list": (request("GET", "/users?cursor=b3JkZXJzOjE"), UNREADABLE),  # orders:1
        "another spelling of a cursor": (request("GET", "/users?cursor=dXNlcnM6MR"), UNREADABLE),
        "a padded cursor": (request("GET", "/users?cursor=dXNlcnM6MQ%3D%3D"), UNREADABLE),
        "a cursor of -1": (request("GET", "/users?cursor=dXNlcnM6LTE"), UNREADABLE),
        "a cursor of 01": (request("GET", "/users?cursor=dXNlcnM6MDE"), UNREADABLE),
        "a cursor beyond 64 bits": (
            request("GET", "/users?cursor=dXNlcnM6OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"),
            UNREADABLE,
        ),
        "a long cursor": (request("GET", "/users?cursor=" + "A" * 400), BAD),
    },
    "orders": {
        "a quantity of -1": (line("-1"), BAD),
        "a quantity of 0": (line("0"), BAD),
        "a quantity of half": (line("0.5"), BAD),
        "a quantity of 2³¹": (line("2147483648"), BAD),
        "a quantity beyond 64 bits": (line("9" * 30), BAD),
        "a quantity of thousands of digits": (line("9" * 5_000), UNREADABLE),
        "a quantity of 1e400": (line("1e400"), UNREADABLE),
        "a quantity of NaN": (line("NaN"), UNREADABLE),
        "a quantity in quotes": (line('"1"'), BAD),
        "a quantity of true": (line("true"), BAD),
        "more than there is": (line("2147483647"), "409 out-of-stock"),
        "nobody's order": (order('{"user_id": 99, "items": [{"sku": "SKU-1", "quantity": 1}]}'), "422 unknown-user"),
        "a user beyond 64 bits": (order(f'{{"user_id": {"9" * 30}, "items": []}}'), BAD),
        "no items": (order('{"user_id": 1, "items": []}'), BAD),
        "too many items": (order('{"user_id": 1, "items": [' + ",".join(['{"sku": "A"}'] * 500) + "]}"), BAD),
        "a key that is none": (
            request("POST", "/orders", "Idempotency-Key: a b", body=b'{"user_id": 1, "items": []}'),
            UNREADABLE,
        ),
        "an odd id": (request("GET", "/orders/%2e%2e%2fusers"), "404 not-found"),
        "an id that is no UTF-8": (request("GET", "/orders/%ff"), "404 not-found"),
        "a long id": (request("GET", "/orders/" + "a" * 5_000), "404 not-found"),
        "a user of 01": (request("GET", "/orders?user_id=01"), BAD),
        "an unknown parameter": (request("GET", "/orders?user=1"), BAD),
        "a cursor of another list": (request("GET", "/orders?cursor=dXNlcnM6MQ"), UNREADABLE),  # users:1
    },
    "inventory": {
        "a negative price": (product('{"name": "N", "unit_price": -1, "on_hand": 1}'), BAD),
        "a price beyond 2⁵³": (product('{"name": "N", "unit_price": 9007199254740993, "on_hand": 1}'), BAD),
        "a price beyond 64 bits": (product(f'{{"name": "N", "unit_price": {"9" * 30}, "on_hand": 1}}'), BAD),
        "a price of half": (product('{"name": "N", "unit_price": 0.5, "on_hand": 1}'), BAD),
        "a negative stock": (product('{"name": "N", "unit_price": 1, "on_hand": -1}'), BAD),
        "a blank name": (product('{"name": "  ", "unit_price": 1, "on_hand": 1}'), BAD),
        "a sku of two lines": (request("PUT", "/inventory/A%0AB", body=b"{}"), BAD),
        "a sku that is a path": (request("PUT", "/inventory/..%2fA", body=b"{}"), BAD),
        "a sku that is no UTF-8": (request("GET", "/inventory/%ff"), "404 not-found"),
        "many skus": (request("GET", "/inventory?" + "&".join(["sku=A"] * 201)), BAD),
        "an unknown parameter": (request("GET", "/inventory?skus=A"), BAD),
        "an unknown parameter of one": (request("GET", "/inventory/SKU-1?x"), BAD),
        "a cursor of another list": (request("GET", "/inventory?cursor=dXNlcnM6MQ"), UNREADABLE),
    },
    "control": {
        "a host that is none": (wire("GET /api/edges HTTP/1.1", "Host: [::"), "421 misdirected"),
        "a host that is no text": (wire("GET /api/edges HTTP/1.1", "Host: \xff"), "421 misdirected"),
        "an empty host": (wire("GET /api/edges HTTP/1.1", "Host: "), "421 misdirected"),
        "no host, by HTTP/1.0": (wire("POST /api/reset HTTP/1.0"), "421 misdirected, closed"),
        "an origin that is no text": (wire("POST /api/reset HTTP/1.1", H, "Origin: \xff"), "403 foreign-origin"),
        "an unknown parameter": (request("GET", "/api/logs?lines=1"), BAD),
        "a parameter where none is known": (request("GET", "/api/edges?x=1"), BAD),
        "a negative limit": (request("GET", "/api/logs?limit=-1"), BAD),
        "a fault of lists": (fault('{"kind": ["delay"], "service": ["users"]}'), BAD),
        "a deep fault": (fault('{"kind": ' + '{"a": ' * 900 + "1" + "}" * 901), BAD),
        "a deep list": (fault('{"kind": "delay", "service": "users", "seconds": ' + "[" * 900 + "]" * 900 + "}"), BAD),
        "a huge number": (fault(f'{{"kind": {"9" * 5_000}}}'), UNREADABLE),
        "a number of many digits": (fault(f'{{"kind": {"9" * 4_000}}}'), BAD),
        "a huge duration": (fault(f'{{"kind": "delay", "service": "users", "seconds": {"9" * 400}}}'), BAD),
        "an infinite duration": (fault('{"kind": "delay", "service": "users", "seconds": 1e400}'), UNREADABLE),
        "a fault's name of two lines": (request("PUT", "/api/faults/a%0Ab", body=b'{"kind": "hang"}'), BAD),
        "a mode that is none": (request("PUT", "/api/edges/orders/users/breaker", body=b'{"mode": 1}'), BAD),
        "a path in a name": (request("POST", "/api/services/users/%2e%2e"), "404 not-found"),
    },
}


@pytest.mark.looptime
@pytest.mark.parametrize("service", PORTS)
async def test_whatever_is_sent_to_a_service_is_refused(start_mesh: StartMesh, service: str) -> None:
    """What a service is asked that it cannot read (400), mean (422), find (404) or use (415); never a 500."""
    world = await start_mesh()
    found = {}
    for name, (data, _) in OF_A_SERVICE[service].items():
        found[name] = await outcome(world, service, data)
        await unharmed(world, service)
    assert found == {name: expected for name, (_, expected) in OF_A_SERVICE[service].items()}


async def test_of_duplicate_keys_the_last_wins(world: World) -> None:
    """As docs/security.md says."""
    wire = await connect(world, "users")
    await wire.send(user('{"name": "A", "name": "B", "email": "b@example.com"}'))
    answer = await wire.answer()
    assert answer is not None
    assert (answer.status, answer.json["name"]) == (201, "B")
    await wire.close()


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    """More than are read ahead; and what cannot be read after them, last."""
    wire = await connect(world, "users")
    wanted = [1 + number % 3 for number in range(100)]
    await wire.send(b"".join(request("GET", f"/users/{number}") for number in wanted))
    answers = [await wire.answer() for _ in wanted]
    assert [answer.json["id"] for answer in answers if answer is not None] == wanted
    await wire.send(b"NONSENSE\r\n\r\n")
    last = await wire.answer()
    assert last is not None
    assert last.kind == "malformed-request"
    assert await wire.ended()
    await wire.close()


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("cut", [0, 1, 40])
async def test_nothing_behind_an_upgrade_is_read_as_a_request(world: World, protocol: str, cut: int) -> None:
    """It is answered, and the connection ends: nobody can hide a request in the body of the next one."""
    headers = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}")
    inside = request("DELETE", "/users/3")
    behind = request("POST", "/users", body=b" " * 40 + inside)
    at = behind.index(inside) - cut
    wire = await connect(world, "users")
    await wire.send(request("POST", "/users", *headers, body=b"{}") + behind[:at])
    await asyncio.sleep(0.02)
    await wire.send(behind[at:])
    first = await wire.answer()
    assert first is not None
    assert (first.status, first.kind, first.headers["Connection"]) == (422, "invalid-fields", "close")
    assert await wire.answer() is None
    await wire.close()
    assert (await world.get("users", "/users/3")).status == 200
    await unharmed(world, "users")


@pytest.mark.parametrize("data", [GOOD[:20], GOOD, request("POST", "/users", body=b"{}")[:-1]])
async def test_a_client_that_half_closes_has_gone(world: World, data: bytes) -> None:
    """Its connection is closed: an end of file is how a caller says that it no longer wants the answer."""
    wire = await connect(world, "users")
    await wire.send(data)
    wire._writer.write_eof()
    assert await wire.ended()
    await wire.close()
    await unharmed(world, "users")


CHUNKS = ("Content-Type: application/json", "Transfer-Encoding: chunked")
WHOLE = b'27\r\n{"name": "N", "email": "n@example.com"}\r\n'


@pytest.mark.parametrize(
    ("method", "path", "begin", "first"),
    [
        ("POST", "/users", b"", 400),
        ("POST", "/users", WHOLE, 400),  # what came could be read, but is not all
        ("GET", "/users/1", b"", 200),  # nobody reads it
        ("GET", "/users/1", b"1\r\n{", 200),
    ],
)
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_a_body_that_breaks_its_chunks_later_is_answered(
    world: World, method: str, path: str, begin: bytes, first: int, pause: float
) -> None:
    """When the handler is already waiting for it, or has not begun: 400 at once, and the connection is closed."""
    wire = await connect(world, "users")
    await wire.send(request(method, path, *CHUNKS) + begin)
    await asyncio.sleep(pause)
    await wire.send(b"zz\r\n")
    answers = []
    while (answer := await wire.answer(2.0)) is not None:
        answers.append(answer.status)
    await wire.close()
    assert answers in ([first], [400], [first, 400])
    assert [user["email"] for user in (await world.get("users", "/users")).json["users"]].count("n@example.com") == 0
    await unharmed(world, "users")


async def test_an_answer_to_head_has_no_body(world: World) -> None:
    """Whatever it is: what follows is the next answer."""
    for path in ("/healthz", "/users/1", "/nowhere", "/users?x", "/docs", "/docs/swagger-ui.css"):
        wire = await connect(world, "users")
        await wire.send(request("HEAD", path) + GOOD)
        async with asyncio.timeout(5):
            assert b"Content-Length: " in await wire._reader.readuntil(b"\r\n\r\n")
        answer = await wire.answer()
        assert answer is not None
        assert (answer.version, answer.status) == ("HTTP/1.1", 200), path
        await wire.close()


async def test_what_cannot_be_read_is_logged_and_counted(world: World) -> None:
    """One line and one count for each, under "unparsed", with the id that the client got; nothing of what it sent."""
    wire = await connect(world, "users")
    await wire.send(b'GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: x\r\n{"event": "forged"}\r\n\r\n')
    answer = await wire.answer()
    assert answer is not None
    (line,) = world.logged("request.completed")
    assert line == {
        "event": "request.completed",
        "log_level": "info",
        "service": "users",
        "method": "unparsed",
        "route": "unparsed",
        "status": 400,
        "ms": 0.0,
        "request_id": answer.headers["X-Request-Id"],
        "caller": "external",
    }
    text = world.mesh.metrics.exposition()[0].decode()
    assert (
        'meshlite_request_duration_seconds_count{method="other",route="unparsed",service="users",status="4xx"} 1'
        in text
    )
    await wire.close()


async def test_no_answer_tells_a_version(world: World) -> None:
    """`Server` names meshlite, and nothing else: of answers, refusals, pages and streams."""
    for service, path in (("users", "/users/1"), ("users", "/docs"), ("users", "/nowhere"), ("control", "/metrics")):
        assert (await world.get(service, path)).headers["Server"] == "meshlite"
    async with world.client.get(world.url("control") + "/api/events") as response:
        assert response.headers["Server"] == "meshlite"
