"""A connection: aiohttp's, within our limits, and with everything that it cannot read answered in our shape."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeGuard, cast

from aiohttp import EMPTY_PAYLOAD, HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import InvalidHeader, InvalidURLError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from meshlite.config import LimitsSection
from meshlite.events import UNMATCHED
from meshlite.propagation import Headers
from meshlite.wire.problems import Problem, from_http

Refuse = Callable[..., web.Response]
"""Answers a Problem of a request that no handler will see; more arguments: its method and its route."""
Handler = Callable[[Any], Awaitable[web.StreamResponse]]
_VERSIONS = "only HTTP/1.1 and HTTP/1.0 are spoken here"
LINGER = 1.0
"""Seconds in which what a client still sends is read and thrown away, so that it can read why it was refused."""


class Door(Protocol):
    """Who says that there are too many requests, before anything is done for one more."""

    def sheds(self) -> bool:
        """Whether a request that came now would be turned away."""

    def turn_away(self, method: str, path: str, headers: Headers) -> bytes | None:
        """The whole answer to one that came while it `sheds`; None for what somebody else has to judge."""


class Connection(web.RequestHandler):
    """One client's connection. `everyone` are the open ones that it counts among."""

    __slots__ = (
        "_body",
        "_condemned",
        "_door",
        "_everyone",
        "_partial",
        "_refuse",
        "_since",
        "_stuck",
        "_wire",
        "limits",
    )

    def __init__(
        self,
        manager: web.Server,
        limits: LimitsSection,
        refuse: Refuse,
        everyone: "tuple[set[Connection], ...]",
        door: Door | None = None,
    ) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_seconds,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            lingering_time=LINGER,
            max_line_size=limits.url_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.header_count,
        )
        self.limits = limits
        self._refuse = refuse
        self._everyone = everyone
        self._door = door
        self._wire: asyncio.Transport | None = None
        self._body: Any = None  # of the request that was read last, None without one
        self._partial = 0  # bytes of a header that is not complete
        self._since: float | None = None  # when its first one came
        self._stuck: float | None = None  # since when the client has not taken all that it was sent
        self._condemned = False
        for those in everyone:
            those.add(self)  # before aiohttp knows of it: asyncio makes the connection a turn later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)  # aiohttp forgets its own before it is closed
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        for those in self._everyone:
            those.discard(self)
        super().connection_lost(exc)

    @property
    def waiting(self) -> bool:
        """Whether it has nothing to do: no request has been read that is not wholly answered."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def followed(self) -> bool:
        """Whether another request has been read behind the one that is being answered."""
        return bool(self._messages)

    def cut(self) -> None:
        """End it at once, whatever is under way."""
        if self._wire is not None:
            self._wire.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came; while requests are turned away, one that comes whole is answered here and now."""
        waiter = self._waiter
        if self._door is None or waiter is None or waiter.done() or not self._door.sheds():
            self._take(data)
            return
        self._waiter = None  # nobody is to be woken yet
        self._take(data)
        self._waiter = waiter
        if self._messages and not self._turned_away(self._door):
            waiter.set_result(None)

    def _turned_away(self, door: Door) -> bool:
        """Whether the only request that was read has had its answer."""
        (message, body), wire, parser = self._messages[0], self._wire, self._parser
        if wire is None or parser is None or wire.get_write_buffer_size() > 0 or self._reading_paused:
            return False
        if len(self._messages) > 1 or not _is_plain(message) or not body.is_eof():
            return False
        if body.total_bytes > self.limits.body_bytes:
            return False
        answer = door.turn_away(message.method, message.path, message.headers)
        if answer is None:
            return False
        self._messages.popleft()
        parser.message_consumed()
        wire.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout  # as after any answer
        return True

    def _take(self, data: bytes) -> None:
        """Note what `data` leaves incomplete: a request that comes whole costs two comparisons."""
        if self._condemned:
            return
        count, body = self._request_count, self._body
        in_header = body is None or body.is_eof()
        super().data_received(data)
        if self._request_count != count:
            if not in_header and isinstance(self._messages[-1][0], _ErrInfo):
                self._break_off(body)
            payload = self._messages[-1][1]
            self._body = None if payload is EMPTY_PAYLOAD else payload
            if self._partial + len(data) > self.limits.header_bytes:
                self._measure(self._request_count - count)
            if self._partial:
                self._partial, self._since = 0, None
        elif in_header and not (self._upgraded or self._close or self._force_close):
            self._incomplete(data)

    def _break_off(self, body: Any) -> None:
        """What comes is no part of `body`: whoever reads it, now or later, is told; aiohttp would let him wait."""
        self._condemned = True
        if self._current_request is not None or len(self._messages) > 1:
            body.set_exception(web.RequestPayloadError("the body breaks HTTP's rules"))
        body.feed_eof()  # nobody is to wait for the rest

    def _incomplete(self, data: bytes) -> None:
        if not data.strip(b"\r\n"):  # empty lines before a request are nothing
            return
        if self._since is None:
            self._since = self._loop.time()
        self._partial += len(data)
        if self._partial > self.limits.header_bytes:
            self._condemn(self._too_large())

    def _measure(self, new: int) -> None:
        """Condemn the first of the `new` requests whose header is too large."""
        for place in range(len(self._messages) - new, len(self._messages)):
            message = self._messages[place][0]
            if isinstance(message, _ErrInfo):
                return
            lines = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
            if lines + len(message.method) + len(message.path) + 14 > self.limits.header_bytes:
                while len(self._messages) > place:
                    self._messages.pop()
                self._condemn(self._too_large())
                return

    def _too_large(self) -> Problem:
        return Problem("header-too-large", f"a header may have at most {self.limits.header_bytes} bytes")

    def _condemn(self, problem: Problem) -> None:
        """Answer what was read so far, then with `problem`, and close; what comes from now on is not read."""
        self._condemned = True
        self._partial, self._since = 0, None
        self._messages.append((_ErrInfo(problem.status, problem, str(problem)), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def look(self, now: float) -> None:
        """End what takes too long: a header that does not come, an answer that is not taken. Once a second will do."""
        if self._since is not None and now - self._since > self.limits.header_seconds:
            took = f"the header was not complete within {self.limits.header_seconds:g} s"
            self._condemn(Problem("request-timeout", took))
        if self._wire is None or not self._sends(self._wire):
            self._stuck = None
        elif self._stuck is None:
            self._stuck = now
        elif now - self._stuck > self.limits.answer_seconds:
            self.cut()

    def _sends(self, wire: asyncio.Transport) -> bool:
        """Whether something is on its way: the handler is done and its answer is not, or bytes wait for the client."""
        return (self._request_in_progress and self._current_request is None) or wire.get_write_buffer_size() > 0

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer for a request that cannot be read, or for a failure that no handler answered for."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if status < 500:
            request._version = HttpVersion11  # what could not be parsed counts as HTTP/1.0 otherwise
            response = self._refuse(self._unreadable(exc, message))
        else:
            self.log_exception("connection.crashed", exc_info=exc)
            response = self._refuse(Problem("internal", "the service failed; its log says more"))
        response.force_close()
        return response

    def _unreadable(self, error: BaseException | None, message: str | None) -> Problem:
        """What is to be said of what aiohttp's parser, or we, found wrong."""
        why = (message or "it is not HTTP").strip().splitlines()[0].rstrip(":")
        match error:
            case Problem():
                return error
            case LineTooLong() if error.args[1] == self.limits.url_bytes:
                return Problem("url-too-long", f"a URL may have at most {self.limits.url_bytes} bytes")
            case LineTooLong():
                return self._too_large()
            case _ if why.startswith("Too many headers"):
                return Problem("header-too-large", f"a header may have at most {self.limits.header_count} lines")
            case InvalidHeader():
                why = "a header has a character that it may not have"
            case InvalidURLError():
                why = "this is no URL that can be asked for"
            case _ if why.startswith("Pause on PRI"):
                why = _VERSIONS
        return Problem("malformed-request", why)


def _is_plain(message: RawRequestMessage | _ErrInfo) -> TypeGuard[RawRequestMessage]:
    """Whether it is a request that nothing has to be judged of but what it asks for."""
    return (
        not isinstance(message, _ErrInfo)
        and message.version is HttpVersion11
        and not message.should_close
        and not message.upgrade
        and hdrs.TRANSFER_ENCODING not in message.headers
        and hdrs.EXPECT not in message.headers
    )


class Refusal(asyncio.Protocol):
    """A connection too many: it is told so, once, and given a moment to read it."""

    def __init__(self, answer: bytes, others: "set[Refusal]", most: int) -> None:
        self._answer = answer
        self._others = others
        self._most = most
        self._wire: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = wire = cast(asyncio.Transport, transport)
        wire.write(self._answer)
        if len(self._others) >= self._most:
            wire.close()
            return
        self._others.add(self)
        wire.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER, self.cut)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._others.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def cut(self) -> None:
        """End it at once."""
        if self._wire is not None:
            self._wire.abort()


def as_bytes(response: web.Response) -> bytes:
    """A whole answer, after which the connection ends."""
    body = response.body if isinstance(response.body, bytes) else b""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items() if name != hdrs.CONTENT_LENGTH]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


def gate(handler: Handler, limits: LimitsSection, refuse: Refuse) -> Handler:
    """`handler`, behind what is judged before any application: the version, the length that is declared, `Expect`.

    An `Upgrade` is not followed, and is the last request on its connection: of what comes behind it aiohttp may lose a
    piece, and read the rest as if it were a request.
    """

    async def refused(request: web.BaseRequest, problem: Problem) -> web.StreamResponse:
        response = refuse(problem, request.method, UNMATCHED)
        response.force_close()
        request._version = HttpVersion11
        return response

    async def special(request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:  # aiohttp's, of an `Expect` that it cannot meet: no middleware sees it
            response = refuse(from_http(error, request), request.method, UNMATCHED)
        if request._message.upgrade:
            response.force_close()
        return response

    def gated(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        headers = request.headers
        if (
            request._version is HttpVersion11
            and hdrs.CONTENT_LENGTH not in headers
            and hdrs.TRANSFER_ENCODING not in headers
            and hdrs.EXPECT not in headers
            and hdrs.UPGRADE not in headers
        ):
            return handler(request)
        problem = _unacceptable(request, limits)
        if problem is not None:
            return refused(request, problem)
        return special(request) if hdrs.EXPECT in headers or hdrs.UPGRADE in headers else handler(request)

    return gated


def _unacceptable(request: web.BaseRequest, limits: LimitsSection) -> Problem | None:
    if request._version not in (HttpVersion11, HttpVersion10):
        return Problem("malformed-request", _VERSIONS)
    if request.headers.get(hdrs.TRANSFER_ENCODING, "chunked").lower() != "chunked":
        return Problem("malformed-request", "the only Transfer-Encoding that can be read is chunked")
    if (request.content_length or 0) > limits.body_bytes:
        return too_large(limits.body_bytes)
    return None


def too_large(most: int) -> Problem:
    """413: a body may have at most so many bytes."""
    return Problem("body-too-large", f"the body may have at most {most} bytes")
