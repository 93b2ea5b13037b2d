"""Faults over the control plane: what there are, which are on, and changing them."""

from typing import Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, Struct, defstruct
from msgspec.structs import asdict, fields

from meshlite.config import MOST_FAULTS, NAME_FORM, Name
from meshlite.control.base import MESH, routes, unknown
from meshlite.control.text import reply
from meshlite.lint import astray
from meshlite.mesh import Mesh
from meshlite.rules import STATUS, FaultRule
from meshlite.validation import Fault as Wrong
from meshlite.validation import Invalid, faults, shown
from meshlite.wire.messages import body, whole
from meshlite.wire.problems import Problem, invalid

_PROBLEMS = ("malformed-request", "foreign-origin", "body-too-large", "unsupported-media-type", "invalid-fields")


class FaultView(FaultRule, frozen=True, kw_only=True, omit_defaults=True):
    """A fault: its table, where that came from, its matches and hits, requests it holds, seconds until it goes.

    `warnings` say why it cannot strike anything.
    """

    name: str
    enabled: bool
    source: str
    matches: int
    hits: int
    active: int
    remaining: float | None
    warnings: list[str]


class FaultList(Struct, frozen=True):
    """All faults, on or off."""

    faults: list[FaultView]


_READ_ONLY = [key.name for key in fields(FaultView) if key.name not in FaultRule.__struct_fields__]
_IGNORED = Annotated[Any, Meta(description="as it was read: of no effect", extra_json_schema={"readOnly": True})]
FaultTable = defstruct(
    "FaultTable",
    [
        *((name, _IGNORED, UNSET) for name in _READ_ONLY),
        *((key.name, key.type if key.required else key.type | None, UNSET) for key in fields(FaultRule)),
    ],
    kw_only=True,
    forbid_unknown_fields=True,
)
"""A fault's table as a body has it: null is "not given", and what it needs may be there already."""


def view(mesh: Mesh, name: str) -> FaultView:
    """What is to be said of one fault."""
    rule = mesh.config.faults[name]
    armed = mesh.services[rule.service].faults.counted(name)
    return FaultView(
        **asdict(rule) | _unsaid(rule),
        name=name,
        source=mesh.config.layers.source("faults", name) or "default",
        matches=armed.matches if armed else 0,
        hits=armed.hits if armed else 0,
        active=armed.active if armed else 0,
        remaining=mesh.inforce.remaining(name),
        warnings=astray(mesh.config, rule),
    )


def _unsaid(rule: FaultRule) -> dict[str, Any]:
    """What holds of a fault whose table does not say it."""
    found: dict[str, Any] = {}
    if rule.phase is None and rule.kind != "unready":
        found["phase"] = "response" if rule.late(rule.kind) else "request"
    if "error" in rule.kinds and rule.status is None and rule.statuses is None:
        found["status"] = STATUS
    return found


@routes.add("GET", "/api/faults", "List the faults", {200: FaultList})
async def list_faults(request: web.Request) -> web.Response:
    mesh = request.app[MESH]
    return reply(FaultList([view(mesh, name) for name in mesh.config.faults]))


@routes.add(
    "GET",
    "/api/faults/{name}",
    "Read a fault",
    {200: FaultView},
    path_types={"name": Name},
    problems=("not-found",),
)
async def read_fault(request: web.Request) -> web.Response:
    mesh, name = request.app[MESH], request.match_info["name"]
    if name not in mesh.config.faults:
        raise unknown("fault", name, mesh.config.faults)
    return reply(view(mesh, name))


@routes.add(
    "PUT",
    "/api/faults/{name}",
    "Make a fault, or put another in its place; without service and kind, change the one that is there",
    {200: FaultView, 201: FaultView},
    body=FaultTable,
    body_required=False,
    path_types={"name": Name},
    problems=(*_PROBLEMS, "too-many-faults"),
    links={
        "read_fault": {"name": "$request.path.name"},
        "patch_fault": {"name": "$request.path.name"},
        "delete_fault": {"name": "$request.path.name"},
        "list_faults": {},
    },
)
async def put_fault(request: web.Request) -> web.Response:
    mesh, name, table = request.app[MESH], request.match_info["name"], await _table(request)
    if name in mesh.config.faults and table.get("service") is None and table.get("kind") is None:
        return _changed(mesh, name, {key: value for key, value in table.items() if value is not None})
    if faults(name, Name):
        detail = f"expected {NAME_FORM}, got {name!r:.70}"
        raise invalid([Wrong(("name",), detail)], pointers=False)
    is_new = name not in mesh.config.faults
    if is_new and (count := len(mesh.config.faults)) >= MOST_FAULTS:
        raise Problem(
            "too-many-faults", f"there are {count} faults, and may be {MOST_FAULTS}: remove one that you need no more"
        )
    try:
        mesh.inforce.put(name, table)
    except Invalid as error:
        raise _refused(error, name) from error
    return reply(view(mesh, name), 201 if is_new else 200)


@routes.add(
    "PATCH",
    "/api/faults/{name}",
    "Change some keys of a fault; null takes one back",
    {200: FaultView},
    body=FaultTable,
    body_required=False,
    path_types={"name": Name},
    problems=(*_PROBLEMS, "not-found"),
)
async def patch_fault(request: web.Request) -> web.Response:
    mesh, name, keys = request.app[MESH], request.match_info["name"], await _table(request)
    if name not in mesh.config.faults:
        raise unknown("fault", name, mesh.config.faults)
    return _changed(mesh, name, keys)


def _changed(mesh: Mesh, name: str, keys: dict[str, Any]) -> web.Response:
    try:
        if keys:
            mesh.inforce.edit(name, keys)
    except Invalid as error:
        raise _refused(error, name) from error
    return reply(view(mesh, name))


@routes.add(
    "DELETE",
    "/api/faults/{name}",
    "Remove a fault; whom it holds goes on",
    {204: None},
    path_types={"name": Name},
    problems=("foreign-origin", "unsupported-media-type", "not-found"),
)
async def delete_fault(request: web.Request) -> web.Response:
    mesh, name = request.app[MESH], request.match_info["name"]
    if name not in mesh.config.faults:
        raise unknown("fault", name, mesh.config.faults)
    mesh.inforce.edit(name, None)
    return web.Response(status=204)


async def _table(request: web.Request) -> dict[str, Any]:
    """The body, an object, or none at all; of one that was read before, what its table says. Raises Problem."""
    table: dict[str, Any] = await body(request, dict[str, Any]) if request.can_read_body else {}
    name, left_out = request.match_info["name"], [*_READ_ONLY]
    if "name" in table:  # a fault as it was read
        if table["name"] != name:
            raise invalid([Wrong(("name",), f"expected that of the path, {shown(name)}, got {shown(table['name'])}")])
        rule = request.app[MESH].config.faults.get(name)
        said = {} if rule is None else _unsaid(rule)
        left_out += [key for key, value in said.items() if table.get(key) == value]
    return {key: whole(value) for key, value in table.items() if key not in left_out}


def _refused(error: Invalid, name: str) -> Exception:
    """The faults found, with their places in the body."""
    found = []
    for fault in error.faults:
        path = fault.path[2:] if fault.path[:2] == ("faults", name) else fault.path
        found.append(Wrong(path, fault.detail))
    return invalid(found)
