"""structlog, for people in a terminal and as JSON lines elsewhere, written by a thread so that the loop never waits.

Nothing here is global: a mesh has its log, and two meshes in one process have two.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from meshlite import propagation
from meshlite.events import (
    PROBES,
    BreakerMoved,
    Bus,
    CallCompleted,
    ConfigApplied,
    ConfigDeferred,
    ConfigRejected,
    ConfigShadowed,
    Fact,
    FaultSwitched,
    LoopBlocked,
    RequestCompleted,
    ServiceMoved,
)
from meshlite.validation import one_line

_BUFFER = 4 * 1024 * 1024
_PAUSE = 0.1
_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))


class Writer:
    """Collects lines and writes them out some ten times a second, from a thread of its own.

    A reader that is too slow costs lines, not requests: beyond 4 MiB they are dropped, and a line says how many.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._something = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        if self._size > _BUFFER:
            self._dropped += 1
            self._something.set()  # the next flush begins to count anew
            return
        self._lines.append(line)
        self._size += len(line) + 1
        if len(self._lines) == 1:
            self._something.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._something.wait()
            self._something.clear()
            self._flush()
            self._closing.wait(_PAUSE)
        self._flush()

    def _flush(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(msgspec.json.encode({"event": "log.dropped", "level": "warning", "lines": dropped}))
        if not lines:
            return
        try:
            self._stream.write(b"\n".join(lines) + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # whoever read this log has gone
            self._dropped = 0

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._something.set()
        self._thread.join(timeout=2.0)


class _BytesSink:
    """What structlog calls at the end of its processors."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.msg = write

    debug = info = warning = error = critical = exception = property(lambda self: self.msg)


def _wall_clock() -> Callable[[], str]:
    """The time in RFC 3339, UTC, to the millisecond; what is formatted is formatted once."""
    second, prefix = 0, ""

    def now() -> str:
        nonlocal second, prefix
        moment = time.time()
        past = moment - second
        if not 0 <= past < 1:
            second = int(moment)
            past, prefix = moment - second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return prefix + _MILLISECONDS[int(past * 1000)]

    return now


def _encode(event: EventDict, **_: Any) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=repr)
    except UnicodeEncodeError:  # what a stranger sent may be no UTF-8
        return json.dumps(event, default=repr).encode()


_COLORS = {"2": "32", "3": "36", "4": "33", "5": "31"}


def _for_people(colors: bool) -> structlog.typing.Processor:
    console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=18, pad_level=False, sort_keys=False)

    def painted(text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if colors else text

    def encoded(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
        for key, value in event.items():  # no value may begin a line of its own
            if isinstance(value, str) and key != "exception" and not value.isprintable():
                event[key] = repr(value)
        if "exception" in event:  # of several lines, and indented: what an error quotes looks like no line of ours
            event["exception"] = "\n".join(f"    {one_line(part)}" for part in event["exception"].split("\n"))
        event["timestamp"] = event["timestamp"][11:-1]
        if event["event"] != RequestCompleted.name:
            return console(logger, level, event).encode(errors="backslashreplace")
        status = f"{event['status']}"
        line = (
            f"{painted(event['timestamp'], '2')} {event['service']:<9} {event['method']:<6} {event['route']:<26} "
            f"{painted(status, _COLORS.get(status[0], '0'))} {event['ms']:>8.1f} ms  from {event['caller']:<8} "
            f"{painted(event['request_id'], '2')}"
        )
        if "attempt" in event:
            line += f" attempt {event['attempt']}"
        if "shed" in event:
            line += painted(" shed", "35")
        if "fault" in event:
            line += painted(f" fault {event['fault']}", "35")
        return line.encode(errors="backslashreplace")

    return encoded


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Recent:
    """The last lines of a log, in memory; and, behind them, those before that are no request's, which are few."""

    def __init__(self, size: int = 1_000) -> None:
        self.entries: deque[bytes | EventDict] = deque(maxlen=size)
        """A request's line is kept as it was written: one object, where what it says would be seven."""
        self._rare: deque[EventDict] = deque(maxlen=size)

    def note(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Keep a line on its way to the renderer: a processor for structlog."""
        kept = dict(event)
        self.entries.append(kept)
        if event["event"] != RequestCompleted.name:
            self._rare.append(kept)
        return event

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Each line as what it says, the newest first."""
        seen = set()
        for entry in reversed(tuple(self.entries)):
            if isinstance(entry, bytes):
                yield msgspec.json.decode(entry)
            else:
                seen.add(id(entry))
                yield entry
        yield from (entry for entry in reversed(tuple(self._rare)) if id(entry) not in seen)


class Log(NamedTuple):
    """A log: what writes to it, what writes a request's line to it, and the writer behind both, to be closed.

    `set_level` changes the least that is written; `recent` are the last lines, as what they say.
    """

    logger: FilteringBoundLogger
    access: Callable[[RequestCompleted], None]
    writer: Writer
    set_level: Callable[[str], None]
    recent: "Recent"


def make(stream: BinaryIO, style: str, level: str, *, colors: bool = False) -> Log:
    """A log onto `stream`: `style` is "console" or "json", `level` the least that is written, such as "info"."""
    writer, now, recent = Writer(stream), _wall_clock(), Recent()
    least = 0

    def set_level(level: str) -> None:
        nonlocal least
        least = _LEVELS[level]

    def stamp(_: WrappedLogger, name: str, event: EventDict) -> EventDict:
        level = name if name in _LEVELS else "error"
        if _LEVELS[level] < least:
            raise structlog.DropEvent
        stamped = {"timestamp": now(), "level": level, **event}
        inbound = propagation.current.get()
        if inbound is not None and inbound.tracer is not None:
            stamped.setdefault("trace_id", inbound.trace_id)
            stamped.setdefault("span_id", inbound.span.span_id)
        return stamped

    render: list[structlog.typing.Processor] = (
        [_for_people(colors)] if style == "console" else [structlog.processors.JSONRenderer(serializer=_encode)]
    )
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _BytesSink(writer.write),
        processors=[stamp, structlog.processors.format_exc_info, recent.note, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind()
    encode, write, keep = msgspec.json.Encoder().encode, writer.write, recent.entries.append

    def access(fact: RequestCompleted) -> None:  # directly: through structlog a line would cost five times as much
        if least > logging.INFO:
            return
        line = f'{{"timestamp":"{now()}","level":"info","event":"request.completed",'.encode() + encode(fact)[1:]
        keep(line)
        write(line)

    set_level(level)
    return Log(logger, access if style == "json" else through(logger), writer, set_level, recent)


def through(logger: FilteringBoundLogger) -> Callable[[RequestCompleted], None]:
    """Writes requests' lines through structlog."""

    def access(fact: RequestCompleted) -> None:
        logger.info(fact.name, **msgspec.to_builtins(fact))

    return access


class StdlibHandler(logging.Handler):
    """What asyncio and aiohttp say through `logging` goes into our log too."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
            message = record.getMessage()
            write("library.reported", logger=record.name, message=message, exc_info=record.exc_info)
        except Exception:  # a log line must not become its writer's error
            self.handleError(record)


_OTHERS = tuple(kind for kind in Fact.__subclasses__() if kind not in (RequestCompleted, CallCompleted))


def listen(bus: Bus, log: FilteringBoundLogger, access: Callable[[RequestCompleted], None]) -> None:
    """Write one line, keys only, for each fact that `bus` tells of, but for calls: that is their callee's request."""

    def request(fact: RequestCompleted) -> None:
        # to look at the control plane, as its page does each second, is worth no line
        quiet = fact.route in PROBES or (fact.service == "control" and fact.method in ("GET", "HEAD"))
        if fact.status >= 400 or not quiet:
            access(fact)

    def write(fact: Fact) -> None:
        match fact:
            case BreakerMoved():
                edge = f"{fact.caller}→{fact.callee}"
                log.warning(fact.name, edge=edge, key=fact.key, old=fact.old, new=fact.new, reason=fact.reason)
            case ServiceMoved():
                level = log.error if fact.state == "failed" else log.info
                why = {"reason": fact.reason} if fact.reason else {}
                level(fact.name, service=fact.service, state=fact.state, url=fact.url, **why)
            case LoopBlocked():
                log.warning(fact.name, **msgspec.to_builtins(fact))
            case FaultSwitched():
                log.warning(fact.name, fault=fact.fault, enabled=fact.enabled, by=fact.by)
            case ConfigApplied():
                log.info(fact.name, changed=list(fact.changed), by=fact.by)
            case ConfigDeferred():
                log.warning(fact.name, needs_restart=list(fact.needs_restart))
            case ConfigShadowed():
                log.warning(fact.name, keys=fact.keys)
            case ConfigRejected():
                log.error(fact.name, path=fact.path, problems="; ".join(fact.problems))

    bus.subscribe(request, RequestCompleted)
    bus.subscribe(write, *_OTHERS)
