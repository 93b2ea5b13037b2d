"""Who may speak to the control plane: the right Host, the right Origin, the token where there is one."""

import hmac
import re
from collections.abc import Callable

from aiohttp import web

from meshlite.config import Config
from meshlite.control import page
from meshlite.wire.problems import Problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/healthz", "/readyz"}) | page.OPEN
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page can send anywhere without asking first (CORS calls such requests simple)."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_AUTHORITY = re.compile(r"(?:\[([^][/?#@\\\s]+)\]|([^][:/?#@\\\s]+))(?::([0-9]{0,5}))?", re.ASCII)


def make_guard(config: Config) -> Callable[[web.Request], None]:
    """A function that raises Problem for every request that may not come in.

    A foreign Host is 421: a name that an attacker points at 127.0.0.1 (DNS rebinding) does not get through. A foreign
    Origin (any but http or https and the Host that was asked, of which this machine's own names are one) on a request
    that changes something is 403, and so is one of which the browser says that it comes from another site: no web page,
    not even one of another port of this machine, can stop the services. A form with anything in it is 415, whoever
    sends it; an empty body is none. Probes and the dashboard's files need no token: there is nothing in them.
    """
    allowed = (config.mesh.host, *config.control.allowed_hosts)
    named = (_host(name if name.count(":") < 2 or name.startswith("[") else f"[{name}]") for name in allowed)
    hosts = {*_LOOPBACK, *(name for name in named if name is not None)}
    token = None if config.control.token is None else config.control.token.encode()

    def guard(request: web.Request) -> None:
        url = request._message.url  # absolute where the request line names a host of its own
        if _host(request.headers.get("Host", "")) not in hosts or (url.absolute and url.host not in hosts):
            raise Problem("misdirected", "this Host is not ours: see control.allowed_hosts")
        if request.method not in SAFE and _is_foreign(request):
            raise Problem("foreign-origin", f"a page of another origin may not {request.method} here")
        if token is not None and request.path not in OPEN:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token):
                bearer = {"WWW-Authenticate": "Bearer"}
                raise Problem(
                    "unauthorized", "expected Authorization: Bearer TOKEN, with control.token", headers=bearer
                )
        if request.method not in SAFE and request.can_read_body and request.content_type in _FORMS:
            detail = f"a form changes nothing here: expected application/json, or no body, got {request.content_type}"
            raise Problem("unsupported-media-type", detail)

    return guard


def _is_foreign(request: web.Request) -> bool:
    """Whether a page of another origin sent it, by any of its headers that say so."""
    host = _place(request.headers["Host"])
    return any(not _is_at(origin, host) for origin in request.headers.getall("Origin", ())) or any(
        site not in ("same-origin", "none") for site in request.headers.getall("Sec-Fetch-Site", ())
    )


def _is_at(origin: str, host: tuple[str | None, str]) -> bool:
    scheme, _, authority = origin.partition("://")
    return scheme in ("http", "https") and _place(authority) == host


def _place(authority: str) -> tuple[str | None, str]:
    """Where it is: the name, of which this machine's own are one, and the port."""
    found, name = _AUTHORITY.fullmatch(authority), _host(authority)
    return "localhost" if name in _LOOPBACK else name, (found and found[3]) or ""


def _host(authority: str) -> str | None:
    """The name in a `Host` header, in small letters; None where it is more, or less, than a name and a port."""
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else str(found[1] or found[2]).lower()
