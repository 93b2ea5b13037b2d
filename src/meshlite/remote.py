"""The commands against a running mesh: ask its control plane, print what it says, for people or as JSON."""

import argparse
import http.client
import io
import ipaddress
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from meshlite import views
from meshlite.config import Config
from meshlite.layers import assignment, merge
from meshlite.terminal import (
    PROGRAM,
    Paint,
    Screen,
    clean,
    is_terminal,
    paint,
    wrapped,
)
from meshlite.views import Json

PARTLY = 1
REFUSED = 2
AWAY = 3
_TIMEOUT = 10.0
_LARGEST = 16 * 1024 * 1024


class _Trouble(Exception):
    """What was asked was not done: why, line by line, the exit code, and the answer with its status if that is why."""

    def __init__(self, *lines: str, code: int = REFUSED, status: int = 0, document: Json | None = None) -> None:
        super().__init__(*lines)
        self.lines = [clean(line) for line in lines]
        self.code = code
        self.status = status
        self.document = document or {}

    @property
    def passes(self) -> bool:
        """Whether waiting may help."""
        return self.code == AWAY or self.status >= 500


def run(name: str, config: Config, options: argparse.Namespace, asked: Sequence[str]) -> int:
    """Do the command `name` at the mesh that `config` describes; the exit code. `asked` are the options that say so."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that the terminal's encoding lacks is no reason to fail
    try:
        api = Api(config, " ".join([PROGRAM, *map(shlex.quote, asked)]))
        if options.watch:
            return _watch(api, COMMANDS[name], options)
        sys.stdout.write("".join(f"{line}\n" for line in _lines(api, COMMANDS[name], options)))
        sys.stdout.flush()
        _complain(api.refused)
        return PARTLY if api.refused else 0
    except _Trouble as trouble:
        _complain(trouble.lines)
        return trouble.code
    except OSError as error:  # Python's own flush at the end must not trip over it, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read it has seen enough
            return 0
        _complain([f"cannot write to the standard output: {error.strerror}"])
        return REFUSED


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"meshlite: {line}\n")
    sys.stderr.flush()


def _lines(api: "Api", command: "Command", options: argparse.Namespace) -> list[str]:
    answer = command.ask(api, options)
    if options.json:
        indent = None if options.watch and not is_terminal() else 2  # of many documents, each is one line
        return json.dumps(answer, indent=indent, ensure_ascii=False).encode("utf-8", "replace").decode().split("\n")
    return command.show(answer, paint(api.program))


def _watch(api: "Api", command: "Command", options: argparse.Namespace) -> int:
    """Print it every second until Ctrl-C, and while the mesh is away, that it is."""
    draw = _draw_on_screen(api.url) if is_terminal() and not options.json else _draw_below(options.json)
    try:
        while True:
            due = time.monotonic() + 1
            try:
                draw(_lines(api, command, options), True)
            except _Trouble as trouble:
                if not trouble.passes:
                    raise
                draw([f"meshlite: {line}" for line in trouble.lines], False)
            time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        draw([], False)
        return 0


def _draw_on_screen(url: str) -> "_Draw":
    screen = Screen()

    def draw(lines: list[str], well: bool) -> None:
        if lines:
            shown = lines if well else [part for line in lines for part in wrapped(line, "", width=paint().width)]
            screen.show([f"{url}, every second until Ctrl-C", "", *shown])
        else:
            screen.leave()

    return draw


def _draw_below(as_json: bool) -> "_Draw":
    """One below the other; what is wrong is said once, and beside JSON on stderr."""
    said: list[str] = []

    def draw(lines: list[str], well: bool) -> None:
        new = [] if not well and lines == said else lines
        said[:] = [] if well else lines
        if new:
            stream = sys.stderr if as_json and not well else sys.stdout
            stream.write("".join(f"{line}\n" for line in new) + ("" if as_json else "\n"))
            stream.flush()

    return draw


_Draw = Callable[[list[str], bool], None]


class Api:
    """The control plane of a config: asked with its token, without a proxy, never redirected."""

    def __init__(self, config: Config, program: str) -> None:
        if not config.control.port:
            raise _Trouble("control.port is 0 (any free one): name the one to ask with --set control.port=PORT")
        self._host = _reachable(config.mesh.host)
        self._port = config.control.port
        self._token = config.control.token
        self._grace = config.mesh.shutdown_grace
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._port}"
        self.program = program
        self.refused: list[str] = []
        """Why some of the things that were asked for at once were not done."""

    def ask(self, method: str, *steps: str, body: Json | None = None) -> Json:
        """The JSON object that is answered, an empty one where there is no body. Raises _Trouble."""
        path = "/api/" + "/".join(quote(step, safe="", errors="surrogateescape") for step in steps)
        try:
            status, title, answer = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._unanswered(error) from error
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            document = None
        if not 200 <= status < 300:
            raise self._refusal(status, title, document)
        if status == 204:
            return {}
        if not isinstance(document, dict):
            raise self._stranger("it answers with something else than a JSON object")
        return document

    def all(self, key: str) -> Json:
        """The list that is at /api/KEY, in its envelope."""
        answer = self.ask("GET", key)
        if not isinstance(answer.get(key), list):
            raise self._stranger(f"its /api/{key} has no list of {key}")
        return answer

    def named(self, key: str, names: Sequence[str]) -> list[str]:
        """Each of `names` once. Raises _Trouble where one of several is not in the list at /api/KEY."""
        names = list(dict.fromkeys(names))
        if len(names) > 1:
            known = [str(item.get("name")) for item in views.objects(self.all(key)[key])]
            if unknown := [name for name in names if name not in known]:
                there = ", ".join(known) or "none"
                raise _Trouble(f"no {key[:-1]} {', '.join(unknown)}; there are {there}. Nothing was changed")
        return names

    def each(self, names: Sequence[str], ask: Callable[[str], Json]) -> list[Json]:
        """What is answered for every name; one that is refused does not keep the others."""
        done = []
        for name in names:
            try:
                done.append(ask(name))
            except _Trouble as trouble:
                if trouble.code == AWAY:
                    raise
                self.refused += trouble.lines
        if not done and self.refused:
            raise _Trouble(*self.refused)
        return done

    def _exchange(self, method: str, path: str, body: Json | None) -> tuple[int, str, bytes]:
        patience = _TIMEOUT + (self._grace if method == "POST" else 0.0)  # a start waits for the drain before it
        connection = http.client.HTTPConnection(self._host, self._port, timeout=patience)
        try:
            ends = time.monotonic() + patience
            connection.request(method, path, *self._message(body))
            response = connection.getresponse()
            answer = b""
            while len(answer) < _LARGEST and (part := response.read1(65_536)):
                answer += part
                if time.monotonic() > ends:
                    raise TimeoutError
            if response.length and len(answer) < _LARGEST:
                raise http.client.IncompleteRead(answer)
            return response.status, response.reason, answer
        finally:
            connection.close()

    def _message(self, body: Json | None) -> tuple[bytes | None, dict[str, str]]:
        headers = {"Accept": "application/json", "Connection": "close"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}".encode().decode("latin-1")  # its bytes go out as UTF-8
        if body is None:
            return None, headers
        try:
            data = json.dumps(body, default=str, allow_nan=False).encode()
        except ValueError:
            raise _Trouble("JSON has no nan and no inf: name a finite number") from None
        return data, {**headers, "Content-Type": "application/json"}

    def _unanswered(self, error: Exception) -> _Trouble:
        match error:
            case http.client.HTTPException() if not isinstance(error, (OSError, http.client.IncompleteRead)):
                return self._stranger("it does not speak HTTP")
            case TimeoutError():
                why = "no answer in time"
            case ConnectionRefusedError():
                why = "connection refused"
            case OSError(strerror=str(words)):
                why = words.lower()
            case _:
                why = "the connection was closed"
        help_ = f"is the mesh running? start it with {self.program}"
        return _Trouble(f"nothing answers at {self.url}: {why}; {help_}", code=AWAY)

    def _stranger(self, why: str) -> _Trouble:
        return _Trouble(f"what listens at {self.url} is not a meshlite control plane: {why}")

    def _refusal(self, status: int, title: str, document: Any) -> _Trouble:
        """Why `status` was answered, as a problem document says, or without one what the status means."""
        problem = document if isinstance(document, dict) else {}
        detail = problem.get("detail") or problem.get("title")
        if status == 401:
            fault = "control.token is needed" if self._token is None else "control.token is wrong"
            return _Trouble(f"{fault} at {self.url}: name it in the config, or with --set control.token=TOKEN")
        if not isinstance(detail, str):
            return self._stranger(f"it answers {status} {title}")
        if detail.startswith("no route /api/"):  # one of the services
            return self._stranger(f"it has {detail.partition(';')[0]}")
        if status == 421:
            detail = f"{self.url} is not a name of this mesh: {detail}"
        errors = _errors(problem.get("errors"))
        repeats = errors and all(str(error.get("detail")) in detail for error in views.objects(problem.get("errors")))
        return _Trouble(*([] if repeats else [detail]), *errors, status=status, document=problem)


def _reachable(host: str) -> str:
    """Where what listens on `host` is asked: the loopback address for one that stands for all addresses."""
    if host == "localhost" or not (address := ipaddress.ip_address(host)).is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _errors(errors: object) -> list[str]:
    """The `errors` of a problem document, one per line, places as they are written on the command line."""
    lines = []
    for error in views.objects(errors):
        steps = str(error.get("pointer", "")).split("/")[1:]
        place = ".".join(step.replace("~1", "/").replace("~0", "~") for step in steps)
        detail = str(error.get("detail", "not valid"))
        lines.append(f"{place}: {detail}" if place else detail)
    return lines


class Command(NamedTuple):
    """A command: what it asks, and how people are shown the answer."""

    ask: Callable[[Api, argparse.Namespace], Json]
    show: Callable[[Json, Paint], list[str]]


def _ask_status(api: Api, options: argparse.Namespace) -> Json:
    config = {key: value for key, value in api.ask("GET", "config").items() if key != "config"}
    return {**api.all("services"), **api.all("edges"), **api.all("faults"), "config": config}


def _ask_service(api: Api, options: argparse.Namespace) -> Json:
    names = api.named("services", options.names)
    return {"services": api.each(names, lambda name: api.ask("POST", "services", name, options.action))}


def _ask_edges(api: Api, options: argparse.Namespace) -> Json:
    """All of them, or the one that is named."""
    answer = api.all("edges")
    if not options.edge:
        return answer
    pair, edges = _edge(options.edge), views.objects(answer["edges"])
    found = [edge for edge in edges if (edge.get("caller"), edge.get("callee")) == pair]
    if not found:
        there = ", ".join(map(views.edge_name, edges)) or "none"
        raise _Trouble(f"no edge {'→'.join(pair)}; there are {there}")
    return {"edges": found}


def _edge(words: Sequence[str]) -> tuple[str, str]:
    """The caller and the callee, which may be one word with an arrow."""
    steps = re.split("→|->", words[0]) if len(words) == 1 else words
    if len(steps) != 2 or not all(steps):
        said = " ".join(words)
        raise _Trouble(f"{said!r}: expected CALLER CALLEE, such as orders inventory, or 'orders->inventory' in quotes")
    return steps[0], steps[1]


def _ask_breaker(api: Api, options: argparse.Namespace) -> Json:
    """Set the mode of an edge's breakers, or close them."""
    caller, callee = _edge([word for word in (options.caller, options.callee) if word is not None])
    if options.action == "reset":
        return api.ask("POST", "edges", caller, callee, "breaker", "reset")
    return api.ask("PUT", "edges", caller, callee, "breaker", body={"mode": options.action})


def _ask_reset(api: Api, options: argparse.Namespace) -> Json:
    """Where a service cannot start, the rest is done all the same, and the answer says both."""
    try:
        return api.ask("POST", "reset")
    except _Trouble as trouble:
        if "not_started" not in trouble.document:
            raise
        api.refused += trouble.lines
        return trouble.document


def _ask_fault_list(api: Api, options: argparse.Namespace) -> Json:
    """All of them, or those that are named."""
    if not options.names:
        return api.all("faults")
    return {"faults": api.each(list(dict.fromkeys(options.names)), lambda name: api.ask("GET", "faults", name))}


def _ask_fault_set(api: Api, options: argparse.Namespace) -> Json:
    """Change the keys that are named, take back those without a value; a fault that is not there is made of them."""
    body: Json = {}
    for pair in options.pairs:
        try:
            body = merge(body, assignment(pair, "seconds=2.5", "faults", options.name, empty=None))
        except ValueError as error:
            raise _Trouble(str(error)) from error
    if any("." in pair.partition("=")[0] for pair in options.pairs):
        body = _completed(body, _rule(api, options.name))
    try:
        return api.ask("PATCH", "faults", options.name, body=body)
    except _Trouble as trouble:
        if trouble.status != 404:
            raise
        if not {"service", "kind"} <= body.keys():
            raise _Trouble(*trouble.lines, "to make a new one, name its service and its kind") from trouble
    return api.ask("PUT", "faults", options.name, body=body)


def _rule(api: Api, fault: str) -> Json:
    """What is in force of a fault; nothing where there is none."""
    return next((item for item in views.objects(api.all("faults")["faults"]) if item.get("name") == fault), {})


def _completed(body: Json, rule: Json) -> Json:
    """`body` with tables that are whole: what `rule` has in them stays, but for what is set or taken back."""
    whole = {key: merge(rule.get(key), value) for key, value in body.items() if isinstance(value, dict)}
    return body | {
        key: {name: item for name, item in table.items() if item is not None} for key, table in whole.items()
    }


def _switch(api: Api, names: Sequence[str], *, on: bool) -> Json:
    names = api.named("faults", names)
    return {"faults": api.each(names, lambda name: api.ask("PATCH", "faults", name, body={"enabled": on}))}


def _ask_fault_delete(api: Api, options: argparse.Namespace) -> Json:
    """Remove the faults that are named."""

    def delete(name: str) -> Json:
        return {"name": name, **api.ask("DELETE", "faults", name)}

    return {"deleted": [fault["name"] for fault in api.each(api.named("faults", options.names), delete)]}


def _ask_fault_clear(api: Api, options: argparse.Namespace) -> Json:
    """Switch off the faults that are named, or all that are on."""
    names = options.names or [str(fault.get("name")) for fault in views.active(api.all("faults"))]
    return _switch(api, names, on=False)


COMMANDS = {
    "status": Command(_ask_status, views.status),
    "edges": Command(_ask_edges, views.edges),
    "breaker": Command(_ask_breaker, lambda answer, paint: views.edges({"edges": [answer]}, paint)),
    "fault list": Command(_ask_fault_list, views.faults),
    "fault set": Command(_ask_fault_set, views.fault),
    "fault enable": Command(lambda api, options: _switch(api, options.names, on=True), views.faults),
    "fault disable": Command(lambda api, options: _switch(api, options.names, on=False), views.faults),
    "fault delete": Command(_ask_fault_delete, views.deleted),
    "fault clear": Command(_ask_fault_clear, views.cleared),
    "service": Command(_ask_service, views.services),
    "reset": Command(_ask_reset, views.reset),
}
