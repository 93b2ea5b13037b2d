"""Open files: a connection is one, and the system lets a process have only so many."""

import resource
from contextlib import suppress

from meshlite.config import EDGES, SERVICES, Config

_OWN = 256
"""Those that are no connection, or one that is about to end: databases, the log, refusals."""


def needed(config: Config) -> int:
    """How many files a mesh may have open at most, by its limits: a call's connection has two ends here."""
    limits = config.limits
    services = min(limits.connections_in_all, limits.connections * len(SERVICES))
    bulkheads = [config.edges[caller][callee].bulkhead for caller, callee in EDGES]
    calls = sum(min(services, bulkhead.max_concurrent) if bulkhead else services for bulkhead in bulkheads)
    return services + limits.connections + calls + _OWN


def make_room(config: Config) -> list[str]:
    """Let this process have as many as it may need; where the system has fewer for it, a warning that says so."""
    wanted = needed(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    allowed = wanted if hard == endless else min(wanted, hard)
    if soft != endless and soft < allowed:
        with suppress(OSError, ValueError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    if soft == endless or soft >= wanted:
        return []
    limits = config.limits
    keys = f"limits.connections_in_all ({limits.connections_in_all}) and limits.connections ({limits.connections})"
    beyond = "connections beyond are closed unanswered; raise the hard limit (ulimit -Hn), or lower these"
    return [f"{keys}: with the edges' calls they may need {wanted} open files, and {soft} are allowed: {beyond}"]
