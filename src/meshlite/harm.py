"""What each kind of fault does to a request, as its client sees it on the wire."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable
from typing import NoReturn

from aiohttp import web

from meshlite import propagation
from meshlite.faults import HEADER, Fault, Hit
from meshlite.wire.problems import Problem

_TICK = 0.1
"""Seconds between two pieces of a throttled body."""
_MADE_UP = b'{"injected": "this is what an answer might have been, had it been allowed to arrive whole"}'
_RESET = struct.pack("ii", 1, 0)


async def harm(hit: Hit, request: web.Request, response: web.StreamResponse | None) -> web.StreamResponse | None:
    """Do it, before the handler (no `response` yet) or after it. Return the answer that takes the place of its own."""
    fault, effect = hit
    match effect.kind:
        case "delay":
            await fault.hold(effect.seconds)
        case "hang":
            await fault.hold(None)
        case "block":
            time.sleep(effect.seconds)  # noqa: ASYNC251  that is the fault
        case "error":
            return _error(fault, effect.status)
        case "reset":
            await _cut(request, _RESET)
        case "truncate":
            return await _truncated(request, response)
        case "corrupt":
            return _corrupted(response)
        case "throttle":
            return await _throttled(fault, request, response)
    return None


def _error(fault: Fault, status: int) -> web.Response:
    rule = fault.rule
    if rule.body is None:
        detail = f"the fault {fault.name} answers {status}"
        response = Problem("injected-fault", detail, status=status).response()
        response.headers.update(rule.response_headers)
        return response
    kind = "application/json" if rule.body.lstrip()[:1] in ("{", "[") else "text/plain; charset=utf-8"
    headers = {"Content-Type": kind}
    response = web.Response(status=status, body=rule.body.encode("utf-8", "replace"), headers=headers)
    response.headers.update(rule.response_headers)
    return response


async def _cut(request: web.Request, linger: bytes | None) -> NoReturn:
    """End the connection without an answer, with a reset if `linger` says so; aiohttp then cancels this very task."""
    transport = request.transport
    if transport is not None:
        if linger is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    await asyncio.get_running_loop().create_future()
    raise AssertionError  # nobody holds that future


async def _truncated(request: web.Request, response: web.StreamResponse | None) -> web.StreamResponse:
    """Half of the body that was declared, then the end of the connection; without a body, not even the headers."""
    body = _body(response)
    if not body or request.method == "HEAD":
        await _cut(request, None)
    answer = await _begun(request, response, len(body))
    await _sent(request, answer.write(body[: len(body) // 2]))
    answer.force_close()
    return answer


def _corrupted(response: web.StreamResponse | None) -> web.Response:
    body = _body(response)
    answer = web.Response(
        status=200 if response is None else response.status,
        body=body[: len(body) // 2] + b"\xff\x00",
        headers=None if response is None else response.headers,
    )
    answer.headers.popall("Content-Length", None)
    answer.headers["Content-Type"] = "application/json"
    return answer


async def _throttled(
    fault: Fault, request: web.Request, response: web.StreamResponse | None
) -> web.StreamResponse | None:
    """Before the handler: the request's body comes in as slowly as that. After it: the answer's body goes out so."""
    rate = fault.rule.bytes_per_second or 1
    if response is None:
        await fault.hold((request.content_length or 0) / rate)
        return None
    body = _body(response)
    if not body or request.method == "HEAD":
        return None
    answer = await _begun(request, response, len(body))
    size = max(1, round(rate * _TICK))
    try:
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            await fault.hold(len(piece) / rate)
            await _sent(request, answer.write(piece))
    except asyncio.CancelledError:
        if request.transport is not None:  # an answer that has begun has no other end
            request.transport.abort()
        raise
    return answer


async def _sent(request: web.Request, sending: Awaitable[object]) -> None:
    """Send; where the connection has just been cut, wait for aiohttp to hear of it and cancel this very task."""
    try:
        await sending
    except ConnectionResetError:
        await _cut(request, None)


async def _begun(request: web.Request, response: web.StreamResponse | None, length: int) -> web.StreamResponse:
    """An answer whose headers are on their way: those of `response`, and those that every answer has."""
    inbound = propagation.current.get()
    assert inbound is not None
    if response is None:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    else:
        answer = web.StreamResponse(status=response.status, headers=response.headers)
    answer.headers[propagation.REQUEST_ID], answer.headers[HEADER] = inbound.span.request_id, inbound.span.fault or ""
    answer.headers["Server"] = propagation.SERVER
    answer.content_length = length
    if response is not None and response.keep_alive is False:
        answer.force_close()
    await _sent(request, answer.prepare(request))
    return answer


def _body(response: web.StreamResponse | None) -> bytes:
    if response is None:
        return _MADE_UP
    body = response.body if isinstance(response, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""
