"""What people are shown of the control plane's answers; an absent or odd value is shown as "-", never an error."""

from typing import Any

from meshlite.terminal import (
    Paint,
    advised,
    as_count,
    as_limit,
    as_ms,
    as_number,
    as_percent,
    as_rate,
    as_seconds,
    as_text,
    cut,
    table,
    wrapped,
)

Json = dict[str, Any]


def _object(holder: Json, key: str) -> Json:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def objects(items: object) -> list[Json]:
    """The JSON objects in what should be a list of them."""
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def active(answer: Json) -> list[Json]:
    """The faults that are on."""
    return [fault for fault in objects(answer["faults"]) if fault.get("enabled") is True]


def status(answer: Json, paint: Paint) -> list[str]:
    """All of the mesh at a glance."""
    services, edges, faults = (objects(answer[key]) for key in ("services", "edges", "faults"))
    lines = [
        *_config(_object(answer, "config"), paint),
        paint("services", "title"),
        *_services(services, paint, "  "),
        "",
    ]
    rows: list[list[object]] = []
    for edge in edges:
        traffic = as_rate(edge.get("rate")), as_percent(edge.get("error_rate")), as_percent(edge.get("refused_rate"))
        rows.append([edge_name(edge), _breaker_state(edge), *traffic])
    notes = [_breaker_notes(edge, paint) for edge in edges]
    heads, spare = ["edge", "breaker", ">calls/s", ">errors %", ">refused %"], ["refused %", "calls/s"]
    lines += [paint("edges", "title"), *table(heads, rows, paint, notes=notes, indent="  ", spare=spare), ""]
    lines.append(paint("faults", "title"))
    if on := active(answer):
        rows = [[f.get("name"), _deed(f), as_count(f.get("hits")), as_seconds(f.get("remaining"))] for f in on]
        heads, notes = ["name", "what it does", ">hits", ">left"], [_narrowed(f, paint) for f in on]
        return lines + table(heads, rows, paint, notes=notes, indent="  ", spare=["hits"])
    return [*lines, *_no_fault(faults, paint)]


def _config(config: Json, paint: Paint) -> list[str]:
    """What is wrong with the config file, and what of it waits for a restart; nothing where all is well."""
    lines = []
    problems, waiting = (config.get(key) for key in ("problems", "needs_restart"))
    if isinstance(problems, list) and problems:
        since = as_text(config.get("problems_since"))[:19].replace("T", " ")
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        words = f"the file is wrong since {since} UTC, what was in force stays: {as_text(problems[0])}{more}"
        lines += wrapped(words, "  ", "    ", width=paint.width)
    if isinstance(waiting, list) and waiting:
        lines += wrapped(f"waits for a restart: {', '.join(map(as_text, waiting))}", "  ", "    ", width=paint.width)
    return [paint("config", "title"), *lines, ""] if lines else []


def _no_fault(faults: list[Json], paint: Paint) -> list[str]:
    names = [str(fault.get("name")) for fault in faults]
    if not names:
        return advised("no fault is known; try:", f"{paint.program} {_EXAMPLE}", "  ", width=paint.width)
    name = "slow-inventory" if "slow-inventory" in names else names[0]
    return advised("no fault is on; try:", f"{paint.program} fault enable {name}", "  ", width=paint.width)


_EXAMPLE = "fault set slow-users service=users kind=delay seconds=2 enabled=true"


def services(answer: Json, paint: Paint) -> list[str]:
    """A line for each service, and what brings back those that are down."""
    return _services(objects(answer["services"]), paint, "")


def _services(services: list[Json], paint: Paint, indent: str) -> list[str]:
    rows, notes = [], []
    for service in services:
        load = as_rate(service.get("rate")), as_percent(service.get("error_rate")), as_ms(service.get("p99_ms"))
        state = "not ready" if service.get("ready") is False and service.get("state") == "running" else None
        rows.append([service.get("name"), state or service.get("state"), service.get("url"), *load])
        rows[-1].append(as_count(service.get("in_flight")))
        notes.append([as_text(service["reason"])] if service.get("reason") else [])
    heads = ["name", "state", "url", ">req/s", ">errors %", ">p99 ms", ">in flight"]
    lines = table(heads, rows, paint, notes=notes, indent=indent, spare=["url", "in flight"])
    down = [str(service.get("name")) for service in services if service.get("state") in ("stopped", "failed")]
    if down:
        start = f"{paint.program} service start {' '.join(down)}"
        lines += advised("bring back what is down:", start, indent, width=paint.width)
    return lines if services else [f"{indent}no service is mounted"]


def edge_name(edge: Json) -> str:
    """An edge as it is called: "orders→inventory"."""
    return f"{as_text(edge.get('caller'))}→{as_text(edge.get('callee'))}"


_WORST = ("forced_open", "open", "half_open", "disabled", "metrics_only", "closed")


def _breaker_state(edge: Json) -> str:
    """The state of the edge's breaker, of several the worst one's; without any, what the next call would find."""
    states = [str(breaker.get("state")) for breaker in objects(edge.get("breakers"))]
    if states:
        return min(states, key=lambda state: _WORST.index(state) if state in _WORST else len(_WORST))
    if edge.get("mode", "auto") != "auto":
        return str(edge["mode"])
    return "closed" if _object(edge, "policy").get("breaker") else "none"


def _breaker_notes(edge: Json, paint: Paint) -> list[str]:
    """Why, for each breaker that is not closed, and when it will be tried again."""
    notes = []
    for breaker in objects(edge.get("breakers")):
        if breaker.get("state") == "closed":
            continue
        why, wait = as_text(breaker.get("reason")), as_seconds(breaker.get("retry_after"))
        if breaker.get("key", "edge") != "edge":  # one of several
            why = f"{as_text(breaker['key'])} {as_text(breaker.get('state'))}: {why}"
        when = "" if wait == "-" else f"; retry in {wait}"
        notes.append(cut(why, paint.width - 4 - len(when)) + when)
    return notes


def edges(answer: Json, paint: Paint) -> list[str]:
    """Each edge with its policy, its traffic and its breakers, in full."""
    lines: list[str] = []
    for edge in objects(answer["edges"]):
        state = _breaker_state(edge)
        lines += [f"{paint(cut(edge_name(edge), paint.width - 14), 'title')}  {paint(cut(state, 12), state)}"]
        for name, words in (*_policy(_object(edge, "policy")), ("traffic", _traffic(edge)), ("now", _load(edge))):
            lines += wrapped(words, f"  {name:<10}", "            ", width=paint.width)
        mode = edge.get("mode", "auto")
        if mode != "auto":
            lines += wrapped(f"{as_text(mode)}, set by hand", "  mode      ", "            ", width=paint.width)
        lines += [*_breakers(edge, paint), ""]
    return lines[:-1] or ["no edge is drawn"]


def _policy(policy: Json) -> list[tuple[str, str]]:
    retry, bulkhead, admission = (_object(policy, key) for key in ("retry", "bulkhead", "admission"))
    whole, attempt = (as_limit(policy.get(key)) for key in ("timeout", "attempt_timeout"))
    budget = retry.get("budget")
    return [
        ("timeout", f"{whole} for the call, {attempt} for an attempt"),
        (
            "retry",
            f"{as_text(retry.get('attempts'))} tries in all, at most {as_limit(retry.get('max_delay'))} apart, "
            + ("no budget" if budget is None else f"budget {as_text(budget)} retries a request, and 3 a second")
            if retry
            else "off",
        ),
        ("bulkhead", _room(bulkhead) if bulkhead else "off"),
        ("breaker", _rule(_object(policy, "breaker"))),
        ("admission", f"{_room(admission)}; the callee's, for all its callers" if admission else "off"),
    ]


def _room(bulkhead: Json) -> str:
    return f"{as_text(bulkhead.get('max_concurrent'))} at once, {as_text(bulkhead.get('max_waiting'))} may wait"


def _rule(breaker: Json) -> str:
    if not breaker:
        return "off"
    failures = breaker.get("max_failures")
    opens = "never opens by itself" if failures is None else f"opens after {as_text(failures)} failures in a row"
    wait, needed = as_limit(breaker.get("reset_timeout")), as_text(breaker.get("success_threshold"))
    probes = as_text(breaker.get("half_open_max_calls"))
    per = f"one per {as_text(breaker.get('per'))}"
    return f"{opens}, probes after {wait} ({probes} at a time), closes after {needed} successes; {per}"


def _traffic(edge: Json) -> str:
    rates = f"{as_rate(edge.get('rate'))} calls/s, {as_percent(edge.get('error_rate'))} % errors, "
    p99 = as_ms(edge.get("p99_ms"))
    return rates + f"{as_percent(edge.get('refused_rate'))} % refused" + ("" if p99 == "-" else f", p99 {p99} ms")


def _load(edge: Json) -> str:
    now = f"{as_count(edge.get('in_flight'))} in flight, {as_count(edge.get('waiting'))} waiting, "
    return f"{now}amplification {as_text(edge.get('amplification'))}"


_COUNTING = ("closed", "metrics_only")
"""The states in which a breaker counts failures in a row."""


def _breakers(edge: Json, paint: Paint) -> list[str]:
    """A line for each breaker, with its reason in full below it."""
    rows: list[list[Any]] = []
    notes = []
    for breaker in objects(edge.get("breakers")):
        state = breaker.get("state")
        since, retry = as_seconds(breaker.get("age")), as_seconds(breaker.get("retry_after"))
        counts = [as_count(breaker.get(key)) for key in ("consecutive_failures", "opened", "in_flight")]
        if state not in _COUNTING:
            counts[0] = "-"
        rows.append([breaker.get("key"), state, since, *counts, retry])
        reason = as_text(breaker.get("reason"))
        notes.append([] if reason in ("-", "") else wrapped(reason, "", width=paint.width - 4))
    heads = ["key", "state", ">for", ">failures", ">opened", ">in flight", ">retry in"]
    spare = ["in flight", "opened", "failures"]
    return ["", *table(heads, rows, paint, notes=notes, indent="  ", spare=spare)] if rows else []


def faults(answer: Json, paint: Paint) -> list[str]:
    """A line for each fault, and what narrows it below."""
    faults = objects(answer["faults"])
    if not faults:
        return advised("there is no fault; make one:", f"{paint.program} {_EXAMPLE}", "", width=paint.width)
    rows = [
        [
            fault.get("name"),
            "on" if fault.get("enabled") is True else "off",
            _deed(fault),
            as_count(fault.get("hits")),
            as_seconds(fault.get("remaining")),
            fault.get("source"),
        ]
        for fault in faults
    ]
    heads = ["name", "state", "what it does", ">hits", ">left", "from"]
    return table(heads, rows, paint, notes=[_narrowed(fault, paint) for fault in faults], spare=["from", "hits"])


def fault(answer: Json, paint: Paint) -> list[str]:
    """One fault, and how to switch it on if it is off."""
    lines = faults({"faults": [answer]}, paint)
    if answer.get("enabled") is False:
        on = f"{paint.program} fault enable {as_text(answer.get('name'))}"
        lines += advised("it is off; switch it on:", on, "", width=paint.width)
    return lines


def cleared(answer: Json, paint: Paint) -> list[str]:
    """The faults that were switched off."""
    return faults(answer, paint) if answer["faults"] else ["no fault was on"]


_NARROWS = {"caller": "asked by", "route": "for"}
_STATE = ("name", "enabled", "source", "matches", "hits", "active", "remaining", "warnings")
_SAID = {*_NARROWS, *_STATE, "service", "kind", "phase", "probability", "seconds", "status"}


def _deed(fault: Json) -> str:
    """What a fault does, in words: "delay 5 s at inventory (request)"."""
    words = [as_text(fault.get("kind"))]
    words += [as_limit(fault["seconds"])] if "seconds" in fault else []
    words += [as_text(fault["status"])] if "status" in fault else []
    words += [f"at {as_text(fault.get('service'))} ({as_text(fault.get('phase', 'request'))})"]
    return " ".join(words)


def _narrowed(fault: Json, paint: Paint) -> list[str]:
    """Which requests alone a fault hits, what else it says, and why it hits none."""
    more = [f"{word} {as_text(fault[key])}" for key, word in _NARROWS.items() if fault.get(key) is not None]
    if (share := as_number(fault.get("probability"))) not in (None, 1.0):
        more.append(f"{100 * (share or 0):.3g} % of requests")
    more += [f"{key}={as_text(value)}" for key, value in fault.items() if key not in _SAID and value is not None]
    warnings = fault.get("warnings")
    said = [f"warning: {as_text(warning)}" for warning in warnings] if isinstance(warnings, list) else []
    return [part for line in (", ".join(more), *said) for part in wrapped(line, "", width=paint.width - 4)]


def reset(answer: Json, paint: Paint) -> list[str]:
    """What a reset has changed."""
    lines = []
    for key, words in _RESET.items():
        names = answer.get(key)
        named = ", ".join(map(as_text, names)) if isinstance(names, list) else ""
        if named or key != "not_started":
            lines += wrapped(named or "none", f"{words:<18}", " " * 18, width=paint.width)
    return lines


_RESET = {
    "faults": "faults off",
    "breakers": "breakers reset",
    "services": "services started",
    "not_started": "not started",
}


def deleted(answer: Json, paint: Paint) -> list[str]:
    """The faults that are no more."""
    return wrapped(", ".join(map(as_text, answer["deleted"])), "deleted: ", "         ", width=paint.width)
