"""TOML → a frozen `Config`: defaults, then the file, then `--set`; every fault found at once, with its place."""

import ipaddress
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import msgspec
from msgspec import Meta, Struct, field

from meshlite.errors import ConfigError
from meshlite.layers import Json, Layers, assignment, merge
from meshlite.rules import KINDS, FaultRule, contradictions
from meshlite.validation import MOST, Fault, faults, shown

SERVICES = ("users", "orders", "inventory")
EDGES = (("users", "orders"), ("orders", "inventory"), ("orders", "users"))
HOT = ("log", "policy", "edges", "faults")
"""The sections that a running mesh takes up as soon as the file changes; the others need a restart."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$(?!\n)")]
NAME_FORM = "at most 63 letters, digits, hyphens and underscores, the first a letter or a digit"
Port = Annotated[int, Meta(ge=0, le=65_535)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class MeshSection(_Section, frozen=True, kw_only=True):
    """`[mesh]`. `data` is a folder, relative to the config file's, or ":memory:"."""

    host: str = "127.0.0.1"
    data: Annotated[str, Meta(min_length=1)] = "data"
    seed: int = 0
    shutdown_grace: Annotated[float, Meta(ge=0, le=3_600)] = 5.0
    allow_header_faults: bool = False


class LogSection(_Section, frozen=True, kw_only=True):
    """`[log]`. The least that is written."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class ServiceSection(_Section, frozen=True, kw_only=True):
    """`[services.NAME]`. Port 0 takes a free one; `app` is "module:function", called with a `Context`."""

    port: Port
    app: Annotated[str, Meta(description="module:function", pattern=r"^[\w.]+:\w+$(?!\n)")]


class ControlSection(_Section, frozen=True, kw_only=True):
    """`[control]`."""

    port: Port = 8090
    token: Annotated[str, Meta(min_length=1)] | None = None
    allowed_hosts: list[str] = field(default_factory=list)


class LimitsSection(_Section, frozen=True, kw_only=True):
    """`[limits]`: what a client may do to a port, the control plane's too. Bytes, seconds, and how many."""

    url_bytes: Annotated[int, Meta(ge=256, le=1_048_576)] = 8_192
    header_bytes: Annotated[int, Meta(ge=512, le=1_048_576)] = 32_768
    header_count: Annotated[int, Meta(ge=8, le=10_000)] = 100
    header_seconds: Seconds = 10.0
    body_bytes: Annotated[int, Meta(ge=1, le=1_073_741_824)] = 1_048_576
    body_seconds: Seconds = 10.0
    answer_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    connections: Count = 2_000
    connections_in_all: Count = 4_000


class RetryPolicy(_Section, frozen=True, kw_only=True):
    """`attempts` tries in all; full jitter below `base_delay` · 2ⁿ, at most `max_delay`; `budget` retries a request."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    base_delay: Seconds = 0.05
    max_delay: Seconds = 0.25
    budget: Annotated[float, Meta(gt=0, le=10)] | None = 0.2


class BulkheadPolicy(_Section, frozen=True, kw_only=True):
    """At most `max_concurrent` at once; `max_waiting` more may queue, in order."""

    max_concurrent: Count = 100
    max_waiting: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class BreakerPolicy(_Section, frozen=True, kw_only=True):
    """As the arguments of `meshlite.CircuitBreaker`; `per` "route" is a breaker for each route of the callee."""

    max_failures: Count | None = 5
    reset_timeout: Seconds = 5.0
    success_threshold: Count = 2
    half_open_max_calls: Count = 1
    per: Literal["edge", "route"] = "edge"


class AdmissionPolicy(BulkheadPolicy, frozen=True, kw_only=True):
    """The callee's bulkhead, for all its callers together."""

    max_concurrent: Count = 200
    max_waiting: Annotated[int, Meta(ge=0, le=1_000_000)] = 100


class EdgePolicy(_Section, frozen=True, kw_only=True):
    """What one edge does; None where a rule is switched off."""

    timeout: Seconds | None = 2.0
    attempt_timeout: Seconds | None = 0.9
    retry: RetryPolicy | None = RetryPolicy()
    bulkhead: BulkheadPolicy | None = BulkheadPolicy()
    breaker: BreakerPolicy | None = BreakerPolicy()


class PolicySection(EdgePolicy, frozen=True, kw_only=True):
    """`[policy]`: the edges' common policy, and the callees' admission."""

    admission: AdmissionPolicy | None = AdmissionPolicy()


class Config(_Section, frozen=True, kw_only=True):
    """All of it, merged and checked. `edges` has one whole policy for each edge of the mesh, by caller and callee."""

    mesh: MeshSection
    log: LogSection
    services: dict[str, ServiceSection]
    control: ControlSection
    limits: LimitsSection
    policy: PolicySection
    edges: dict[str, dict[str, EdgePolicy]]
    faults: dict[Name, FaultRule]
    path: Path | None
    """The file it came from; None where there is none."""
    folder: Path
    """What `mesh.data` is relative to."""
    layers: Layers
    """The tables that it was made of."""

    @property
    def data(self) -> Path | None:
        """The data folder, None for ":memory:"."""
        return None if self.mesh.data == ":memory:" else self.folder / self.mesh.data


def is_stream(file: Path) -> bool:
    """Whether `file` is a pipe, a terminal or the like: it can be read once, and whoever opens it may wait for ever."""
    try:
        return file.exists() and not (file.is_file() or file.is_dir())
    except OSError:  # whoever reads it will say why
        return False


@cache
def _piped(file: Path) -> str:
    """What came through a pipe: it comes once."""
    return file.read_text(encoding="utf-8")


def load(path: Path | None, overrides: Sequence[str] = (), *, sections: Sequence[str] | None = None) -> Config:
    """The config in `path` (None: `config.toml` here, if it is there), with `KEY=VALUE` `overrides` on top.

    Where `sections` are given, nothing else of the file is looked at, and one that is not TOML counts as empty if a
    flag says where the mesh is; where none are (`()`), `config.toml` here is not looked for. Raises ConfigError with
    every fault that was found.
    """
    file = path if path is not None else Path("config.toml")
    found = file if path is not None or (sections != () and file.is_file()) else None
    problems: list[str] = []
    broken = ""
    table: Json = {}
    flags: Json = {}
    if found is not None:
        try:
            text = _piped(found) if is_stream(found) else found.read_text(encoding="utf-8")
            table = tomllib.loads(text)
        except OSError as error:
            problems.append(f"{found}: cannot be read: {error.strerror}")
        except (ValueError, RecursionError) as error:
            broken = f"{found}: is not TOML: {error}"
    if sections is not None:
        table = {name: value for name, value in table.items() if name in sections}
    for override in overrides:
        try:
            flags = merge(flags, assignment(override, "services.users.port=9080"))
        except ValueError as error:
            problems.append(f"--set {error}")
    if broken and sections is None:
        problems.insert(0, broken)
    elif broken and "port" not in (flags.get("control") or {}):
        problems.insert(0, f"{broken}; say with --set control.port=PORT which mesh is meant")
    layers = Layers(default=_defaults(), file=table, flag=flags)
    problems += [f"{_said_by(fault.path, layers, found)}{fault.dotted}: {fault.detail}" for fault in check(layers)]
    if problems:
        raise ConfigError(problems)
    return build(layers, found, Path.cwd() if is_stream(file) else file.absolute().parent)


def _said_by(path: Sequence[str | int], layers: Layers, file: Path | None) -> str:
    """Whose fault it is: a flag's, the file's, or of both together, as where neither has the key."""
    flagged, filed = (_at(layer, path) for layer in (layers.flag, layers.file))
    if flagged is not None and (filed is None or not isinstance(flagged, Mapping)):
        return "--set "
    where = str(file or "built-in defaults")
    return f"{where} with --set: " if layers.flag and (flagged is None) == (filed is None) else f"{where}: "


def _at(value: Any, path: Sequence[str | int]) -> Any:
    """What is at `path` of a table; None where there is nothing. A place in a list is the list's."""
    for step in path:
        if isinstance(value, list):
            break
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _defaults() -> Json:
    return tomllib.loads(Path(__file__).with_name("defaults.toml").read_text(encoding="utf-8"))


SWITCHES = {"timeout", "attempt_timeout", "retry", "bulkhead", "breaker", "admission", "budget", "max_failures"}


def _off(value: Any) -> Any:
    """A policy's table with None for every rule that `false` switches off: TOML has no null."""
    if not isinstance(value, Mapping):
        return value
    return {key: None if item is False and key in SWITCHES else _off(item) for key, item in value.items()}


MOST_FAULTS = 100
"""So many faults the file and the flags may have, and no more are made over the API once there are as many."""


def check(layers: Layers) -> list[Fault]:
    """All that is wrong with a config of these tables; empty if nothing is."""
    try:
        found = _check(layers.merged())
    except RecursionError:
        return [Fault(("config",), "tables or lists are nested too deeply")]
    if len(given := layers.given()) > MOST_FAULTS:
        found.append(Fault(("faults",), f"expected at most {MOST_FAULTS} faults, got {len(given)}"))
    return [Fault(fault.path, fault.detail.replace(" | null", _nothing(fault.path))) for fault in found]


def _nothing(path: tuple[str | int, ...]) -> str:
    """How a key says that it has no value: `false` where that switches something off, and else not at all."""
    return " or false" if path and path[-1] in SWITCHES else ""


def _check(merged: Json) -> list[Fault]:
    sections = {
        "mesh": MeshSection,
        "log": LogSection,
        "control": ControlSection,
        "limits": LimitsSection,
        "policy": PolicySection,
    }
    known = [*sections, "services", "edges", "faults"]
    found = [Fault((key,), f"unknown section; known: {', '.join(known)}") for key in merged if key not in known]
    not_tables = [
        Fault((key,), "expected a table" + (f", got {shown(merged[key])}" if key != "control" else ""))
        for key in known
        if not _is_table(merged[key])
    ]
    if not_tables:
        return [*found, *not_tables]
    for key, section in sections.items():
        found += faults(_off(merged[key]) if key == "policy" else merged[key], section, (key,))
    found = [fault for fault in found if fault.path[:2] != _TOKEN] + _check_token(merged["control"].get("token"))
    found += _check_services(merged["services"])
    found += _check_edges(merged)
    for name, rule in merged["faults"].items():
        found += _check_fault(name, rule)
    return found + _check_host(merged) + _check_limits(merged["limits"])


_TOKEN = ("control", "token")


def _check_token(token: object) -> list[Fault]:
    """What is wrong with the control plane's token; what it is goes into no error, log or event."""
    if token is None or (isinstance(token, str) and token and token.isprintable() and token == token.strip()):
        return []
    return [Fault(_TOKEN, "expected a text, in quotes, of printable characters, without spaces at its ends")]


def _is_table(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _check_services(services: Json) -> list[Fault]:
    found = [
        Fault(("services", name), f"unknown service; known: {', '.join(SERVICES)}")
        for name in services
        if name not in SERVICES
    ]
    for name in SERVICES:
        found += faults(services[name], ServiceSection, ("services", name))
    return found


def _check_edges(merged: Json) -> list[Fault]:
    found: list[Fault] = []
    drawn = ", ".join(f"edges.{caller}.{callee}" for caller, callee in EDGES)
    for caller, callees in merged["edges"].items():
        if not _is_table(callees):
            found.append(Fault(("edges", caller), f"expected a table for each callee, got {callees!r}"))
            continue
        for callee, table in callees.items():
            if (caller, callee) not in EDGES:
                found.append(Fault(("edges", caller, callee), f"no such edge; the mesh has {drawn}"))
            elif not _is_table(table):
                found.append(Fault(("edges", caller, callee), f"expected a table, got {shown(table)}"))
            elif "admission" in table:
                found.append(
                    Fault(("edges", caller, callee, "admission"), "belongs to the callee: see policy.admission")
                )
            else:
                found += faults(_off(table), EdgePolicy, ("edges", caller, callee))
    return found


def _check_fault(name: str, rule: object) -> list[Fault]:
    path = ("faults", name)
    found = [Fault(path, f"expected a name of {NAME_FORM}") for _ in faults(name, Name)]
    if not _is_table(rule):
        return [*found, Fault(path, f"expected a table, got {shown(rule)}")]
    if rule.get("kind") in KINDS:
        wrong = faults(rule, FaultRule, path)
        found += wrong
        if all(fault.path[-1] == "service" for fault in wrong):
            readable = msgspec.convert({**rule, "service": ""}, FaultRule)
            found += [Fault((*path, *key.split(".", 1)), why) for key, why in islice(contradictions(readable), MOST)]
    else:
        given = f", got {shown(rule['kind'])}" if "kind" in rule else ""
        found.append(Fault((*path, "kind"), f"expected one of {', '.join(KINDS)}{given}"))
        found += faults({**rule, "kind": KINDS[0]}, FaultRule, path)  # what is wrong whatever kind it was to be
    for key, allowed in (("service", SERVICES), ("caller", (*SERVICES, "external"))):
        if isinstance(rule.get(key), str) and rule[key] not in allowed:
            found.append(Fault((*path, key), f"expected one of {', '.join(allowed)}, got {shown(rule[key])}"))
    return found


def _check_host(merged: Json) -> list[Fault]:
    """What only shows between keys: the host and the token, and ports that are asked for twice."""
    found: list[Fault] = []
    host, token = merged["mesh"].get("host"), merged["control"].get("token")
    try:
        if not (host == "localhost" or ipaddress.ip_address(host).is_loopback) and token is None:
            why = f"missing: required because mesh.host {host} is not a loopback address"
            found.append(Fault(("control", "token"), why))
    except ValueError:
        found.append(Fault(("mesh", "host"), f"expected an IP address or localhost, got {shown(host)}"))
    sections: dict[tuple[str, ...], Any] = {("services", name): merged["services"].get(name) for name in SERVICES}
    sections["control",] = merged["control"]
    seen: dict[int, tuple[str, ...]] = {}
    for path, section in sections.items():
        port = section.get("port") if _is_table(section) else None
        if isinstance(port, int) and port and seen.setdefault(port, path) != path:
            found.append(Fault((*path, "port"), f"port {port} is {'.'.join(seen[port])}.port's already"))
    return found


def _check_limits(limits: Json) -> list[Fault]:
    """What only shows between keys: a URL is a part of the header."""
    url, header = limits.get("url_bytes"), limits.get("header_bytes")
    if isinstance(url, int) and isinstance(header, int) and url >= header:
        return [Fault(("limits", "header_bytes"), f"expected more than limits.url_bytes, {url}, got {header}")]
    return []


def build(layers: Layers, path: Path | None, folder: Path) -> Config:
    """The config of tables that `check` found nothing wrong with."""
    merged = layers.merged()
    edges: Json = {caller: {} for caller, _ in EDGES}
    for caller, callee in EDGES:
        edges[caller][callee] = _off(layers.edge(caller, callee))
    tables = {**merged, "policy": _off(merged["policy"]), "edges": edges}
    sections: Json = {name: msgspec.convert(tables[name], kind) for name, kind in SECTIONS.items()}
    return Config(**sections, path=path, folder=folder, layers=layers)


SECTIONS: Json = {
    "mesh": MeshSection,
    "log": LogSection,
    "services": dict[str, ServiceSection],
    "control": ControlSection,
    "limits": LimitsSection,
    "policy": PolicySection,
    "edges": dict[str, dict[str, EdgePolicy]],
    "faults": dict[Name, FaultRule],
}
