"""The soak's books: what people saw, what the log says and what the metrics count is the same, to the last request.

A request and its line in the log are matched by the request's id.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from meshlite.events import PROBES
from tests.soak.people import Books, Seen
from tests.soak.weather import SERVICES, Blow

ASIDE = "soak-aside"
"""The id of what the test itself asks for."""
REFUSALS = {
    (503, "dependency-unavailable"),
    (503, "overloaded"),
    (503, "draining"),
    (409, "idempotency-in-progress"),
    (409, "out-of-stock"),
}
_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Line(NamedTuple):
    """A line of the log about one request."""

    status: int
    fault: str
    ms: float


class Log:
    """What a mesh's log says: requests from outside by id, all of them counted as the metrics do, and the rest."""

    def __init__(self, file: Path) -> None:
        self.outside: dict[str, Line] = {}
        self.unread: dict[str, tuple[str, int]] = {}
        self.twice: list[str] = []
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.struck: Counter[tuple[str, str]] = Counter()
        self.other: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []
        with file.open("rb") as lines:
            for text in lines:
                self._line(msgspec.json.decode(text))

    def _line(self, line: dict[str, Any]) -> None:
        if line["event"] != "request.completed":
            self.other[line["event"]] += 1
            if line["level"] == "error" and line["event"] != "config.rejected":
                self.wrong.append(line)
            return
        service, route, status = line["service"], line["route"], line["status"]
        if service in SERVICES and (route not in PROBES or status >= 400):
            self.requests[service, route, f"{status // 100}xx"] += 1
        fault = line.get("fault", "")
        for name in filter(None, fault.split(",")):
            self.struck[service, name] += 1
        if status == 500:
            self.wrong.append(line)
        outside = service in SERVICES and line["caller"] == "external" and route not in PROBES
        if not outside or line["request_id"] == ASIDE:
            return
        if route == "unparsed":
            self.unread[line["request_id"]] = (service, status)
        elif line["request_id"] in self.outside:
            self.twice.append(line["request_id"])
        else:
            self.outside[line["request_id"]] = Line(status, fault, line["ms"])


def counted(exposition: str) -> tuple[Counter[tuple[str, str, str]], Counter[tuple[str, str]]]:
    """What the metrics count: requests by service, route and class; requests struck by service and fault."""
    requests: Counter[tuple[str, str, str]] = Counter()
    struck: Counter[tuple[str, str]] = Counter()
    for name, text, value in _SAMPLE.findall(exposition):
        labels = dict(_LABEL.findall(text))
        if name == "meshlite_request_duration_seconds_count":
            if labels["service"] not in SERVICES:  # who only looks at the control plane has no line in the log
                continue
            if labels["route"] not in PROBES or labels["status"] in ("4xx", "5xx"):
                requests[labels["service"], labels["route"], labels["status"]] += int(float(value))
        elif name == "meshlite_injected_faults_total":
            struck[labels["service"], labels["fault"]] += int(float(value))
    return requests, struck


def compare(books: Books, log: Log, blows: list[Blow], calm: tuple[float, float]) -> tuple[Counter[str], list[str]]:
    """Every request accounted for: how many of which sort there were, and those that nothing explains.

    In the `calm` (from, to) nothing but what was asked for is fine.
    """
    sorts: Counter[str] = Counter()
    unexplained: list[str] = []
    for request_id, seen in books.seen.items():
        line = log.outside.get(request_id)
        sort = _unanswered(seen, line, blows) if seen.status == 0 else _answered(seen, line)
        in_calm = seen.began >= calm[0] and seen.ended <= calm[1]
        if sort.startswith("?") or (in_calm and not (seen.fine or seen.why == "gave up")):
            unexplained.append(f"{sort}: {request_id} {seen} {line}")
        sorts[sort] += 1
    for request_id, seen in books.strangers.items():
        if log.unread.get(request_id) != (seen.service, 503):
            unexplained.append(f"? refused unread, without its line: {request_id} {seen}")
    nobodys = log.outside.keys() - books.seen.keys()
    traffic = {number for number in nobodys if number.startswith("load-")}
    sorts["of the control plane's own streams"] = len(traffic)
    nobodys -= traffic
    unexplained += [f"? in the log, and asked by nobody: {number} {log.outside[number]}" for number in nobodys]
    twice = [number for number in log.twice if not number.startswith("load-")]  # aiohttp repeats these by itself
    unexplained += [f"? two lines for one request: {number}" for number in twice]
    return sorts, unexplained


def _answered(seen: Seen, line: Line | None) -> str:
    """The sort of a request that was answered; "?" where nothing explains the answer."""
    if line is None:
        return "? answered, and not in the log"
    if (line.status, line.fault) != (seen.status, seen.fault):
        return "? answered otherwise than the log says"
    if seen.fine:
        return f"answered {seen.status // 100}xx"
    if seen.fault:
        return f"{seen.status} by a fault"
    return f"{'' if (seen.status, seen.why) in REFUSALS else '? '}{seen.status} {seen.why}"


def _unanswered(seen: Seen, line: Line | None, blows: list[Blow]) -> str:
    """The sort of a request without an answer, and what the log says of it; "?" where nothing explains it."""
    if seen.why == "refused before it was read":
        return seen.why if line is None else f"? {seen.why}, and handled"
    told = "no line" if line is None else "499" if line.status == 499 else "an answer that was lost"
    if seen.why == "gave up":
        return f"gave up, {told}"
    if line is not None and line.fault:
        return f"cut off by a fault, {told}"
    if any(blow.service == seen.service and blow.began <= seen.ended and seen.began <= blow.ended for blow in blows):
        return f"cut off with its service, {told}"
    return f"? {seen.why}, {told}"
