"""Who may speak to the control plane: the right Host, the right Origin, the token where there is one."""

import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web

from meshlite.config import Config
from meshlite.wire.problems import Problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/healthz", "/readyz"})


def make_guard(config: Config) -> Callable[[web.Request], None]:
    """A function that raises Problem for every request that may not come in.

    A foreign Host is 421: a name that an attacker points at 127.0.0.1 (DNS rebinding) does not get through. A foreign
    Origin (any but the very scheme, host and port that was asked) on a request that changes something is 403: no web
    page, not even one of another port of this machine, can stop the services. Probes need no token.
    """
    allowed = (config.mesh.host, *config.control.allowed_hosts)
    hosts = {
        "localhost",
        "127.0.0.1",
        "::1",
        *(_host(f"//{name}" if name.count(":") < 2 else f"//[{name}]") for name in allowed),
    }
    token = config.control.token

    def guard(request: web.Request) -> None:
        if _host(f"//{request.headers.get('Host', '')}") not in hosts:
            raise Problem("misdirected", "this Host is not ours: see control.allowed_hosts")
        origin = request.headers.get("Origin")
        own = (f"http://{request.headers['Host']}", f"https://{request.headers['Host']}")
        if origin is not None and request.method not in SAFE and origin not in own:
            raise Problem("foreign-origin", f"a page of another origin may not {request.method} here")
        if token is not None and request.path not in OPEN:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                given.encode("utf-8", "surrogateescape"), token.encode()
            ):
                bearer = {"WWW-Authenticate": "Bearer"}
                raise Problem(
                    "unauthorized", "expected Authorization: Bearer TOKEN, with control.token", headers=bearer
                )

    return guard


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
