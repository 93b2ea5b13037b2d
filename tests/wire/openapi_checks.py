"""What schemathesis is told of this mesh: the few refusals that no JSON Schema can foretell."""

import re

import schemathesis
from schemathesis.checks import CHECKS

MEANING = {"unknown-user", "unknown-sku", "idempotency-key-reused"}
"""Types of a request that is well-formed and speaks of what is not there: statuses 422."""
TWICE = re.compile(r"\S+ is there twice: add the quantities")
"""Of a list of lines, JSON Schema can only ask that no two are the same in everything."""
CONTRADICTION = re.compile(
    r"belongs to .+; this fault is of kind .+|has no meaning for unready: .+|missing: .+|needs a script"
    r"|.+: give one of them|never comes to the fault's own kind, .+|expected at most 60 for block: .+"
    r"|expected a header's name and a printable value|is not a fault's to say: .+|missing|expected one of delay, .+"
)
"""What the keys of one fault may have against each other: `meshlite.rules.contradictions`. A new one needs some, of one
that is there they may be left out."""


def explained(method: str, path: str, status: int, problem: dict) -> bool:
    """Whether a request that its schema allows was refused for a reason that the schema cannot say."""
    kind = problem.get("type", "").removeprefix("urn:meshlite:problem:")
    details = [(error["pointer"], error["detail"]) for error in problem.get("errors", [])]
    if status == 400:  # a cursor is what a page before has given, and nothing that could be made up
        return method == "GET" and kind == "malformed-request" and [pointer for pointer, _ in details] == ["cursor"]
    if status != 422:
        return False
    if kind in MEANING:
        return method in {"POST", "PUT"}
    if kind != "invalid-fields" or not details:
        return False
    if path.startswith("/api/faults/"):
        return all(CONTRADICTION.fullmatch(detail) for _, detail in details)
    return all(TWICE.fullmatch(detail) for _, detail in details)


_accepted = CHECKS.get_one("positive_data_acceptance")


@schemathesis.check
def valid_data_is_accepted(ctx, response, case):
    """`positive_data_acceptance`, but for the refusals that are explained."""
    if response.status_code in (400, 422) and explained(case.method, case.path, response.status_code, response.json()):
        return None
    return _accepted(ctx, response, case)
