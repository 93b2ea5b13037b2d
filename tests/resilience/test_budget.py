"""The retry budget."""

from meshlite.resilience.budget import RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_quiet_edge_may_retry_a_few_times() -> None:
    """Without any requests there are 3 retries a second of the last 10 s, and no more."""
    budget = RetryBudget(0.2, Clock())
    assert [budget.withdraw() for _ in range(31)] == [True] * 30 + [False]


def test_retries_are_a_share_of_the_requests() -> None:
    """A thousand requests allow two hundred retries over the floor: the amplification stays below 1.25."""
    budget = RetryBudget(0.2, Clock())
    for _ in range(1000):
        budget.deposit()
    allowed = sum(budget.withdraw() for _ in range(1000))
    assert allowed == 230
    assert budget.amplification == 1.23


def test_the_window_slides() -> None:
    """What is ten seconds old counts no more, neither requests nor retries."""
    clock = Clock()
    budget = RetryBudget(0.5, clock)
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(200)) == 80
    clock.now += 9.0
    assert not budget.withdraw()
    clock.now += 1.0
    assert sum(budget.withdraw() for _ in range(200)) == 30
    clock.now += 1e6
    assert budget.amplification == 1.0


def test_a_changed_ratio_knows_what_was_before() -> None:
    """Without a ratio retries are only counted; they count against the one that is then set."""
    budget = RetryBudget(None, Clock())
    for _ in range(100):
        budget.deposit()
    assert all(budget.withdraw() for _ in range(40))
    assert budget.amplification == 1.4
    budget.ratio = 0.1
    assert not budget.withdraw()
    budget.ratio = 0.2
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
