"""What a fault decides, match for match, and what is said of one that makes no sense. Nothing here runs a mesh."""

import hashlib
import math
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlite.config import ConfigError, load
from meshlite.rules import Effect, FaultRule, decide

NAME = "f"


def rule(**keys: Any) -> FaultRule:
    """A fault on users, an error where nothing else is said."""
    return FaultRule(**{"service": "users", "kind": "error", **({} if "kind" in keys else {"status": 500}), **keys})


def struck(of: FaultRule, count: int, seed: int = 0, name: str = NAME) -> str:
    """Match for match: the kind's first letter, or a dot where it goes by."""
    effects = (decide(of, seed, name, number) for number in range(count))
    return "".join("." if effect is None else effect.kind[0] for effect in effects)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "eeeeeeee"),
        ({"after": 3}, "...eeeee"),
        ({"every": 3}, "..e..e.."),
        ({"every": 3, "after": 1}, "...e..e."),
        ({"times": 2}, "ee......"),
        ({"times": 2, "after": 1, "every": 2}, "..e.e..."),
        ({"probability": 0.0}, "........"),
        ({"probability": 1.0, "times": 1}, "e......."),
        ({"script": ["ok", "error", "delay"], "seconds": 1.0}, ".ed....."),
        ({"script": ["ok", "error", "delay"], "seconds": 1.0, "repeat": True}, ".ed.ed.e"),
        ({"script": ["error", "reset"], "repeat": True, "after": 2}, "..ererer"),
        ({"script": ["error", "reset"], "repeat": True, "every": 2}, ".e.r.e.r"),
        ({"script": ["error", "hang"], "repeat": True, "times": 3}, "ehe....."),
        ({"script": ["error"], "probability": 0.0}, "........"),
        ({"kind": "truncate"}, "tttttttt"),
    ],
    ids=str,
)
def test_a_sequence_goes_by_the_order_of_arrival(keys: dict[str, Any], expected: str) -> None:
    """`after` that many, every so-manieth, so many `times`, then never; a script place by place, then ok or again."""
    assert struck(rule(**keys), 8) == expected


@pytest.mark.parametrize(
    ("keys", "effect"),
    [
        ({"kind": "delay", "seconds": 2.5}, Effect("delay", 2.5, 0)),
        ({"kind": "block", "seconds": 0.5}, Effect("block", 0.5, 0)),
        ({"status": 418}, Effect("error", 0.0, 418)),
        ({"statuses": {"429": 0.1}}, Effect("error", 0.0, 429)),
        ({"kind": "reset"}, Effect("reset", 0.0, 0)),
        ({"kind": "throttle", "bytes_per_second": 9}, Effect("throttle", 0.0, 0)),
    ],
    ids=str,
)
def test_an_effect_says_what_was_drawn_for_it(keys: dict[str, Any], effect: Effect) -> None:
    """Seconds for a delay and a block, a status for an error, nothing for the others."""
    assert decide(rule(**keys), 0, NAME, 0) == effect


seeds = st.integers(-(2**70), 2**70)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
sequences = st.fixed_dictionaries(
    {},
    optional={
        "after": st.integers(0, 30),
        "every": st.integers(1, 9),
        "times": st.integers(1, 20),
        "probability": st.floats(0, 1),
        "repeat": st.booleans(),
        "script": st.lists(st.sampled_from(["ok", "error", "reset", "hang"]), min_size=1, max_size=9),
    },
)


@settings(max_examples=40, deadline=None)
@given(sequences, seeds, names)
def test_a_decision_depends_on_seed_name_and_number_alone(keys: dict[str, Any], seed: int, name: str) -> None:
    """Asked again, in another order, of an equal rule: the same."""
    numbers = range(60)
    first = {number: decide(rule(**keys), seed, name, number, "one") for number in numbers}
    again = {number: decide(rule(**keys), seed, name, number, "two") for number in reversed(numbers)}
    assert first == again


@settings(max_examples=30, deadline=None)
@given(sequences, seeds)
def test_times_and_after_and_every_are_kept(keys: dict[str, Any], seed: int) -> None:
    """Never more than `times`, none before `after`, at least `every` apart."""
    found = [number for number in range(200) if decide(rule(**keys), seed, NAME, number) is not None]
    assert len(found) <= keys.get("times", 200)
    assert all(number >= keys.get("after", 0) + keys.get("every", 1) - 1 for number in found)
    assert all((later - number) % keys.get("every", 1) == 0 for number, later in pairwise(found))


@settings(max_examples=5, deadline=None)
@given(seeds, st.sampled_from([0.05, 0.3, 0.5, 0.9]))
def test_the_share_that_is_struck_is_the_probability(seed: int, probability: float) -> None:
    """Over ten thousand, within six deviations of the binomial."""
    found = sum(decide(rule(probability=probability), seed, NAME, number) is not None for number in range(10_000))
    assert abs(found - 10_000 * probability) < 6 * math.sqrt(10_000 * probability * (1 - probability))


@settings(max_examples=5, deadline=None)
@given(seeds, st.lists(names, min_size=2, max_size=2, unique=True))
def test_two_faults_draw_for_themselves(seed: int, two: list[str]) -> None:
    """Of one seed and another name, another sequence, and the two strike together as often as chance has it."""
    one, other = (struck(rule(probability=0.5), 4_000, seed, name) for name in two)
    together = sum(a == b == "e" for a, b in zip(one, other, strict=True))
    assert abs(together - 1_000) < 6 * math.sqrt(4_000 * 0.25 * 0.75)


@given(seeds, st.text(), st.text(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_draw_by_request_id_depends_on_the_id_alone(seed: int, one: str, other: str, early: int, late: int) -> None:
    """A request that comes again, whenever it does, meets the same; its place in the order does not count."""
    by_id = rule(kind="delay", seconds=1.0, jitter=0.5, probability=0.5, draw="request-id")
    assert decide(by_id, seed, NAME, early, one) == decide(by_id, seed, NAME, late, one)
    if one != other and (first := decide(by_id, seed, NAME, early, one)) is not None:
        second = decide(by_id, seed, NAME, early, other)
        assert second is None or second.seconds != first.seconds or first.seconds in (0.5, 1.5)


SEED = 7
SEQUENCE = "d878dfa88167dabb"
DELAYS = "2f799090349bd5a3"


def test_one_seed_gives_one_sequence_on_every_machine() -> None:
    """A thousand decisions, printed (`pytest -s` shows them), are those that were written down."""
    sequence = struck(rule(probability=0.3), 1_000, SEED)
    print(f"\nseed {SEED}, fault {NAME}, probability 0.3, the first thousand:\n{sequence}")
    assert hashlib.sha256(sequence.encode()).hexdigest()[:16] == SEQUENCE
    pareto = rule(kind="delay", seconds=0.2, jitter=0.1, distribution="pareto")
    delays = " ".join(f"{effect.seconds:.6f}" for n in range(1_000) if (effect := decide(pareto, SEED, NAME, n)))
    print(f"seed {SEED}, fault {NAME}, pareto 0.2 + 0.1, the first: {delays[:89]}")
    assert hashlib.sha256(delays.encode()).hexdigest()[:16] == DELAYS


@pytest.mark.parametrize(
    ("distribution", "seconds", "jitter", "mean", "spread", "least", "most"),
    [
        ("uniform", 2.0, 0.5, 2.0, 0.5 / math.sqrt(3), 1.5, 2.5),
        ("uniform", 0.5, 1.0, 0.5625, None, 0.0, 1.5),
        ("normal", 2.0, 0.25, 2.0, 0.25, 0.0, 4.0),
        ("normal", 0.1, 1.0, None, None, 0.0, 8.0),
        ("lognormal", 2.0, 0.5, 2.0, 0.5, 0.2, 20.0),
        ("lognormal", 1.0, 2.0, 1.0, None, 0.0, 500.0),
        ("pareto", 0.2, 0.1, 0.3, None, 0.2, 86_400.0),
        ("pareto", 1.0, 0.25, 1.25, 1.25 / 5 * math.sqrt(5 / 3), 1.0, 1_000.0),
        ("pareto", 86_000.0, 86_000.0, None, None, 86_000.0, 86_400.0),
    ],
)
def test_each_distribution_has_its_mean_its_spread_and_its_bounds(
    distribution: Any,
    seconds: float,
    jitter: float,
    mean: float | None,
    spread: float | None,
    least: float,
    most: float,
) -> None:
    """Over twenty thousand: `seconds` on average (pareto: plus `jitter`), never below 0, never above a day."""
    of = rule(kind="delay", seconds=seconds, jitter=jitter, distribution=distribution)
    drawn = [effect.seconds for number in range(20_000) if (effect := decide(of, 1, NAME, number))]
    assert least <= min(drawn) <= max(drawn) <= most
    if mean is not None:
        assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.04)
    if spread is not None:
        assert statistics.pstdev(drawn) == pytest.approx(spread, rel=0.06)


positive = st.floats(0, 86_400, exclude_min=True)


@given(positive, positive, st.sampled_from(["uniform", "normal", "lognormal", "pareto"]), st.integers(0, 10**9))
def test_a_delay_is_a_time_whatever_was_asked_for(seconds: float, jitter: float, distribution: Any, k: int) -> None:
    """However small, large or far apart the two numbers are."""
    effect = decide(rule(kind="delay", seconds=seconds, jitter=jitter, distribution=distribution), 0, NAME, k)
    assert effect is not None
    assert 0 <= effect.seconds <= 86_400


def test_statuses_come_as_often_as_their_weights_say() -> None:
    """Three of four are 503."""
    of = rule(kind="error", statuses={"503": 3, "500": 0.75, "429": 0.25})
    found = Counter(effect.status for number in range(10_000) if (effect := decide(of, 1, NAME, number)))
    assert set(found) == {503, 500, 429}
    assert found[503] == pytest.approx(7_500, rel=0.03)
    assert found[429] == pytest.approx(625, rel=0.15)


@pytest.mark.parametrize(
    ("keys", "caller", "method", "route", "path", "headers", "expected"),
    [
        ({}, "orders", "GET", "/users/{id}", "/users/1", {}, True),
        ({"caller": "orders"}, "orders", "GET", "/users/{id}", "/users/1", {}, True),
        ({"caller": "orders"}, "external", "GET", "/users/{id}", "/users/1", {}, False),
        ({"caller": "external"}, "external", "GET", "/users/{id}", "/users/1", {}, True),
        ({"route": "/users/{id}"}, "", "GET", "/users/{id}", "/users/1", {}, True),
        ({"route": "/users/1"}, "", "GET", "/users/{id}", "/users/1", {}, True),
        ({"route": "/users/1"}, "", "GET", "/users/{id}", "/users/12", {}, False),
        ({"route": "/users/?"}, "", "GET", "/users/{id}", "/users/1", {}, True),
        ({"route": "/users/[2-9]"}, "", "GET", "/users/{id}", "/users/1", {}, False),
        ({"route": "/users*"}, "", "GET", "/users", "/users", {}, True),
        ({"route": "/Users*"}, "", "GET", "/users", "/users", {}, False),
        ({"method": "get"}, "", "GET", "/users", "/users", {}, True),
        ({"method": "P*"}, "", "PUT", "/users", "/users", {}, True),
        ({"method": "P*"}, "", "GET", "/users", "/users", {}, False),
        ({"headers": {"x-t": "a*"}}, "", "GET", "/users", "/users", {"x-t": "ab"}, True),
        ({"headers": {"x-t": "a*"}}, "", "GET", "/users", "/users", {"x-t": "ba"}, False),
        ({"headers": {"x-t": "*"}}, "", "GET", "/users", "/users", {"x-t": ""}, True),
        ({"headers": {"x-t": "*"}}, "", "GET", "/users", "/users", {}, False),
        ({"headers": {"x-t": "a", "x-u": "b"}}, "", "GET", "/users", "/users", {"x-t": "a"}, False),
        ({"method": "GET", "route": "/x"}, "", "GET", "/users", "/users", {}, False),
    ],
)
def test_a_fault_concerns_what_all_its_patterns_pick(
    keys: dict[str, Any], caller: str, method: str, route: str, path: str, headers: dict[str, str], expected: bool
) -> None:
    """The route's template or the path; a header that is not there matches nothing, not even `*`."""
    assert rule(**keys).concerns(caller, method, route, path, headers) is expected


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("kind='delay'", ".seconds: missing: a delay needs it"),
        ("kind='block'", ".seconds: missing: a block needs it"),
        ("kind='throttle'", ".bytes_per_second: missing: a throttle needs it"),
        ("kind='reset', script=['reset', 'delay']", ".seconds: missing: a delay needs it"),
        ("kind='error', status=500, statuses={503=1}", ".statuses: takes the place of status: give one of them"),
        ("kind='error', statuses={}", ".statuses: expected at least one status with its weight"),
        ("kind='error', statuses={200=1}", ".statuses.200: expected a status from 400 to 599"),
        ("kind='error', statuses={x=1}", ".statuses.x: expected a status from 400 to 599"),
        ("kind='error', statuses={" + "5" * 5000 + "=1}", ": expected a status from 400 to 599"),
        ("kind='error', statuses={503=0}", ".statuses: expected a number above 0"),
        ("kind='error', statuses={503=inf}", ".statuses: expected a number of at most 1000000000"),
        ("kind='error', status=399", ".status: expected a whole number of at least 400"),
        ("kind='reset', seconds=1", ".seconds: belongs to delay and block; this fault is of kind reset"),
        ("kind='block', seconds=1, jitter=1", ".jitter: belongs to delay; this fault is of kind block"),
        ("kind='delay', seconds=1, status=500", ".status: belongs to error; this fault is of kind delay"),
        ("kind='hang', body='x'", ".body: belongs to error; this fault is of kind hang"),
        ("kind='hang', response_headers={a='x'}", ".response_headers: belongs to error; this fault is of kind hang"),
        ("kind='error', status=500, bytes_per_second=1", ".bytes_per_second: belongs to throttle"),
        ("kind='delay', seconds=1, distribution='normal'", ".jitter: missing: normal is a distribution around seconds"),
        ("kind='delay', seconds=86401", ".seconds: expected a number of at most 86400"),
        ("kind='block', seconds=61", ".seconds: expected at most 60 for block: nothing can end it, got 61"),
        ("kind='delay', seconds=61, script=['block', 'delay']", ".seconds: expected at most 60 for block"),
        ("kind='unready', probability=0.5", ".probability: has no meaning for unready"),
        ("kind='unready', caller='orders'", ".caller: has no meaning for unready"),
        ("kind='unready', script=['ok']", ".script: has no meaning for unready"),
        ("kind='reset', script=['unready']", ".script: expected 'ok' or 'delay'"),
        ("kind='reset', script=[]", ".script: expected a list of length at least 1"),
        ("kind='reset', script=['ok']", ".script: never comes to the fault's own kind, reset"),
        ("kind='reset', repeat=true", ".repeat: needs a script"),
        ("kind='reset', draw='request-id', after=1", ".after: goes by arrival"),
        ("kind='reset', draw='request-id', every=2", ".every: goes by arrival"),
        ("kind='reset', draw='request-id', times=2", ".times: goes by arrival"),
        ("kind='reset', draw='request-id', script=['reset']", ".script: goes by arrival"),
        ("kind='reset', headers={'a b'='x'}", ".headers.a b: expected a header's name and a printable value"),
        ("kind='reset', headers={''='x'}", ".headers.: expected a header's name and a printable value"),
        (
            "kind='error', status=500, response_headers={a=\"x\\r\\ny: z\"}",
            ".response_headers.a: expected a header's name and a printable value",
        ),
        (
            "kind='error', status=500, response_headers={Content-Length='1'}",
            ".response_headers.Content-Length: is not a fault's to say",
        ),
        (
            "kind='error', status=500, response_headers={Meshlite-Fault='x'}",
            ".response_headers.Meshlite-Fault: is not a fault's to say",
        ),
        ("kind='reset', times=0", ".times: expected a whole number of at least 1"),
        ("kind='reset', max_active=0", ".max_active: expected a whole number of at least 1"),
        ("kind='reset', duration=0", ".duration: expected a number above 0"),
        ("kind='reset', phase='middle'", ".phase: expected 'request' or 'response'"),
        ("kind='reset', phases='request'", ".phases: unknown; did you mean phase?"),
    ],
    ids=lambda text: text[:60],
)
def test_what_makes_no_sense_together_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, said: str
) -> None:
    """A key that would do nothing is refused, and so is one that is missing; none is passed over."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        load(None, [f"faults.f={{service='users', {table}}}"])
    problems = raised.value.problems
    assert any("faults.f" in problem and said in problem for problem in problems), problems


def test_a_rule_with_everything_that_goes_together_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of every kind, with all the keys it can have."""
    monkeypatch.chdir(tmp_path)
    picks = "caller='orders', route='/u*', method='GET', headers={x='y'}, probability=0.5, max_active=3, duration=9"
    order = "after=1, every=2, times=3, phase='response'"
    own = {
        "delay": "seconds=1, jitter=1, distribution='pareto'",
        "error": "statuses={500=1, 503=2}, body='x', response_headers={Content-Type='text/x'}",
        "throttle": "bytes_per_second=10",
        "block": "seconds=1",
        "reset": "script=['ok', 'reset'], repeat=true",
        "hang": "",
        "truncate": "",
        "corrupt": "",
    }
    for kind, keys in own.items():
        whole = ", ".join(filter(None, ["service='users'", f"kind='{kind}'", picks, order, keys]))
        assert load(None, [f"faults.f={{{whole}}}"]).faults["f"].kind == kind
    assert load(None, ["faults.f={service='users', kind='unready', duration=1}"]).faults["f"].kind == "unready"
