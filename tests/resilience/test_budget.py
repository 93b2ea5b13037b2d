"""The retry budget."""

import pytest

from meshlite.resilience.budget import RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_quiet_edge_may_retry_a_few_times() -> None:
    """Without any requests there are 3 retries a second, and no more can be saved up."""
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for pause, allowed in ((0.0, 3), (0.5, 1), (0.5, 2), (1.0, 3), (3600.0, 3), (-7200.0, 0), (1.0, 3)):
        clock.now += pause
        assert sum(budget.withdraw() for _ in range(40)) == allowed


def test_a_lone_request_may_be_retried_each_second() -> None:
    """One request a second, all failing: each is tried again, although a fifth of them is next to nothing."""
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for _ in range(30):
        clock.now += 1.0
        budget.deposit()
        assert budget.withdraw()


@pytest.mark.parametrize("requests", [100, 1_000, 10_000])
def test_retries_are_a_share_of_the_requests(requests: int) -> None:
    """However few come however fast, the amplification stays below 1.25: a fifth, and three."""
    budget = RetryBudget(0.2, Clock())
    for _ in range(requests):
        budget.deposit()
    allowed = sum(budget.withdraw() for _ in range(requests))
    assert allowed == requests / 5 + 3
    assert budget.amplification == 1 + allowed / requests < 1.25


@pytest.mark.parametrize("rate", [100, 300, 2_000])
def test_an_outage_is_not_multiplied_at_any_moment(rate: int) -> None:
    """Of a steady stream in which all fails, no second has more than a fifth of retries and the floor."""
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for second in range(30):
        retried = 0
        for _ in range(rate):
            clock.now += 1 / rate
            budget.deposit()
            retried += budget.withdraw()
        assert retried <= 0.2 * rate + 3 + 3 * (second == 0) + 1


def test_the_window_slides() -> None:
    """What is ten seconds old counts no more, neither requests nor retries."""
    clock = Clock()
    budget = RetryBudget(0.5, clock)
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(200)) == 53
    clock.now += 9.0
    assert sum(budget.withdraw() for _ in range(200)) == 3
    clock.now += 1.0
    assert budget.amplification == 1.0
    assert sum(budget.withdraw() for _ in range(200)) == 3
    for _ in range(10):
        budget.deposit()
    assert budget.amplification == 1.6
    assert sum(budget.withdraw() for _ in range(200)) == 5
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
    assert [budget.withdraw() for _ in range(4)] == [True] * 3 + [False]
    budget.ratio = 0.5
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]


def test_a_retry_that_is_not_made_is_given_back() -> None:
    """It neither counts nor costs, out of the share or out of the floor; those that were made stay."""
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    for _ in range(10):
        budget.deposit()
    taken = []
    for _ in range(5):
        assert budget.withdraw()
        taken.append(budget.last)
    assert not budget.withdraw()
    for each in taken:
        budget.give_back(each)
    assert (budget.retries, budget.amplification) == (0, 1.0)
    assert [budget.withdraw() for _ in range(6)] == [True] * 5 + [False]
    early = budget.last
    clock.now += 5.0
    assert budget.withdraw()
    budget.give_back(early)
    clock.now += 5.5
    assert budget.retries == 1, "the one of five seconds before was made"
    budget.give_back(early)
    assert budget.retries == 1, "what is out of the window is counted no more"
