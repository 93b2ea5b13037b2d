"""The stock was reserved, but the answer got lost: was it, or was it not? Asking again must not reserve twice."""

from meshlite.demo.scenario import UNHURRIED, Claim, Phases, Row, Scenario, Seen, Trouble, Users, got


def unlike(seen: Seen) -> int | None:
    """Pieces that are reserved for no order, or sold and not reserved."""
    return None if seen.books is None else abs(seen.books.confirmed - seen.books.reserved)


SCENARIO = Scenario(
    name="lost-answer",
    title="The reservation happened, its answer got lost.",
    intro="Orders has inventory reserve the stock, and then the connection breaks: did it, or did it not?",
    both=("edges.orders.inventory.breaker=false", *UNHURRIED),  # so that retries are all that differs
    without=("policy.retry=false",),
    policy=("policy.retry.attempts=3",),
    says_without="no retries: what is in doubt is undone, and the buyer told to come back",
    says_with="up to two retries, which are safe: a reservation bears its order's id",
    explains=(
        "A retry is harmless where the request says what is wanted and not what to do: “two cups for order 7”, twice, "
        "is still two cups. Where nobody knows the outcome, the order is undone, and that can be repeated as well."
    ),
    users=Users(rate=30, mix={"order": 3, "orders": 1}),
    trouble=Trouble(
        marks=("answers get lost", "no more"),
        begins="every fourth reservation is made, and its answer lost",
        ends="answers arrive again",
        fault={
            "service": "inventory",
            "kind": "reset",
            "phase": "response",
            "method": "PUT",
            "route": "/reservations/*",
            "every": 4,
        },
    ),
    phases=Phases(1.5, 6, 2),
    quick=Phases(0.5, 2, 0.5),
    rows=(
        Row("placed", "buyers whose order went through", got(["ok"], "order"), "%"),
        Row("refused", "buyers told to come back", got(["refused"], "order"), "%"),
        Row("unlike", "pieces of stock that orders know nothing of", unlike, ""),
        Row("unsettled", "orders left half-way", lambda seen: seen.books and seen.books.unsettled, ""),
    ),
    claims=(
        Claim(
            "With retries nearly everybody gets the order through; without them, every fourth does not.",
            lambda without, with_: with_["placed"] > 0.95 and 0.1 < without["refused"] < 0.4,
        ),
        Claim(
            "Stock and orders agree in both, and none is left half-way: that needs no luck, each step can be repeated.",
            lambda without, with_: (
                without["unlike"] == with_["unlike"] == without["unsettled"] == with_["unsettled"] == 0
            ),
        ),
    ),
)
