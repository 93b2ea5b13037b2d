"""The breaker against a slow, obvious model of its semantics: all settings, whatever happens in whatever order."""

import asyncio
import warnings

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from meshlite import CircuitBreaker, CircuitOpenError


class Model:
    """The semantics in the simplest words: keeps every call and every result, and counts them anew each time.

    Time goes in whole ticks that every window and limit is a multiple of, so that slices and roundings play no part.
    """

    def __init__(self, rules):
        self.rules = rules
        self.epoch = 0
        self.row = 0
        self.begin("closed", 0)

    def begin(self, state, at):
        self.state, self.since, self.epoch = state, at, self.epoch + 1
        self.results, self.flying, self.noticed = [], {}, set()
        self.began = {}  # probes that have shown a sign of life since
        self.streak = self.good = self.ignored = 0

    def open(self, at, asked=0):
        rules = self.rules
        self.row += 1
        grown = min(rules["reset_timeout"] * rules["reset_multiplier"] ** (self.row - 1), 600)
        self.open_time = max(grown, min(asked, 300))
        self.begin("open", at)

    def look(self, now):
        """What time alone has decided by now."""
        rules = self.rules
        while True:
            if self.state == "open" and now >= self.since + self.open_time:
                self.begin("half_open", self.since + self.open_time)
            elif self.state == "half_open" and self.flying:
                first = min(self.flying, key=self.leased)
                over = self.leased(first) + rules["probe_timeout"]
                if now >= over and first not in self.began:
                    self.open(over)
                elif now >= over and not self.slow(self.flying[first], over):
                    del self.flying[first]
                    self.probe_succeeded(over)
                elif self.slow(min(self.flying.values()), now):
                    self.open(now)
                else:
                    return
            elif self.state == "closed":
                overdue = {call for call, began in self.flying.items() if self.slow(began, now)}
                fresh, self.noticed = overdue - self.noticed, self.noticed | overdue
                if not fresh or not self.rate(now, lambda result: result[2], len(overdue), "slow_call_rate"):
                    return
                self.open(now)
            else:
                return

    def leased(self, call):
        return self.began.get(call, self.flying[call])

    def probe_succeeded(self, now):
        self.ignored, self.good = 0, self.good + 1
        if self.good >= self.rules["success_threshold"]:
            self.row = 0
            self.begin("closed", now)

    def renew(self, now, epoch, call):
        """It counts from now on where slowness is the question; a lease goes on as it began."""
        self.look(now)
        if epoch != self.epoch or call not in self.flying or self.slow(self.flying[call], now):
            return
        if self.state == "half_open":
            self.began.setdefault(call, self.flying[call])
        del self.flying[call]  # it goes to the end, as one that has just begun
        self.flying[call] = now

    def slow(self, began, now):
        limit = self.rules.get("slow_call_duration")
        return limit is not None and now - began > limit

    def overdue(self, now):
        return sum(self.slow(began, now) for began in self.flying.values())

    def rate(self, now, which, extra, name):
        rules = self.rules
        if rules.get(name) is None:
            return False
        if rules["window"] == "count":
            inside = self.results[-rules["window_size"] :]
        else:
            inside = [result for result in self.results if now - result[0] < rules["window_size"]]
        calls = len(inside) + self.overdue(now)
        return calls >= rules["minimum_calls"] and (sum(map(which, inside)) + extra) / calls >= rules[name]

    def admit(self, now, call):
        self.look(now)
        if self.state in ("open", "forced_open"):
            return False
        if self.state == "half_open":
            needed = self.rules["success_threshold"] - self.good
            if len(self.flying) >= min(self.rules["half_open_max_calls"], needed):
                return False
        self.flying[call] = now
        return True

    def end(self, now, epoch, call, outcome, asked):  # all of it in one place
        rules = self.rules
        if epoch != self.epoch:
            return
        began = self.flying.get(call, now)
        decided = self.state == "half_open" and (
            call not in self.flying or now >= self.leased(call) + rules["probe_timeout"]
        )
        if not decided:
            del self.flying[call]
        self.look(now)
        if epoch != self.epoch or self.state == "disabled" or decided:
            return
        slow, failed = self.slow(began, now), outcome == "failure"
        if self.state == "half_open":
            if outcome == "ignore":
                self.ignored += 1
                if self.ignored >= rules["max_ignored_probes"]:
                    self.open(now)
            elif failed or slow:
                self.open(now, asked if failed else 0)
            else:
                self.probe_succeeded(now)
        elif outcome != "ignore":
            self.streak = self.streak + 1 if failed else 0
            self.results.append((now, failed, slow))
            if self.state == "closed":
                by_row = rules["max_failures"] is not None and self.streak >= rules["max_failures"]
                overdue = self.overdue(now)
                by_failures = failed and self.rate(now, lambda result: result[1], 0, "failure_rate")
                by_slow = (failed or slow) and self.rate(now, lambda result: result[2], overdue, "slow_call_rate")
                if by_row or by_failures or by_slow:
                    self.open(now, asked)

    def by_hand(self, now, state):
        self.look(now)
        self.row = 0
        self.begin(state, now)


RATES = st.sampled_from([0.25, 0.5, 0.75, 1.0])


@st.composite
def rulesets(draw):
    rules = {
        "max_failures": draw(st.sampled_from([None, 1, 2, 3])),
        "reset_timeout": draw(st.integers(1, 40)),
        "reset_multiplier": draw(st.sampled_from([1, 2, 3])),
        "half_open_max_calls": draw(st.integers(1, 4)),
        "success_threshold": draw(st.integers(1, 4)),
        "probe_timeout": draw(st.integers(1, 40)),
        "max_ignored_probes": draw(st.integers(1, 4)),
    }
    if draw(st.booleans()):
        rules["window"] = draw(st.sampled_from(["count", "time"]))
        rules["window_size"] = draw(st.integers(1, 8)) if rules["window"] == "count" else draw(st.integers(1, 50))
        rules["minimum_calls"] = draw(st.integers(1, min(rules["window_size"], 5)))
        if draw(st.booleans()):
            rules["slow_call_duration"] = draw(st.integers(1, 20))
            rules["slow_call_rate"] = draw(RATES)
        if "slow_call_rate" not in rules or draw(st.booleans()):
            rules["failure_rate"] = draw(RATES)
    return rules


class Compared(RuleBasedStateMachine):
    """Both get the same calls at the same time; state, admission and time to wait must agree."""

    @initialize(rules=rulesets())
    def start(self, rules):
        self.now = 0
        self.moves = []
        self.breaker = CircuitBreaker("x", clock=lambda: self.now, **rules)
        self.breaker.subscribe(self.moves.append)
        self.breaker.subscribe(lambda event: self.breaker.snapshot())
        self.model = Model(rules)
        self.calls = []
        self.number = 0

    def agree(self):
        self.model.look(self.now)
        snapshot = self.breaker.snapshot()
        assert snapshot.state == self.model.state
        assert snapshot.since == self.model.since
        if snapshot.state == "open":
            assert snapshot.retry_after == self.model.since + self.model.open_time - self.now
        if snapshot.state in ("closed", "metrics_only"):
            assert snapshot.consecutive_failures == self.model.streak
        if snapshot.state == "half_open":
            assert (snapshot.probes, snapshot.probe_successes) == (len(self.model.flying), self.model.good)
        assert snapshot.in_flight == len(self.calls)
        for before, after in zip(self.moves, self.moves[1:], strict=False):
            assert before.to_state == after.from_state
            assert before.at <= after.at

    @rule(looks=st.booleans(), ticks=st.integers(1, 45))
    def pass_time(self, looks, ticks):
        self.now += ticks
        if looks:
            self.agree()

    @rule(times=st.integers(1, 4))
    def acquire(self, times):
        for _ in range(times):
            self.number += 1
            try:
                permit = self.breaker.acquire()
            except CircuitOpenError as error:
                refused = error
                assert not self.model.admit(self.now, self.number)
            else:
                assert self.model.admit(self.now, self.number)
                assert permit.probe == (self.model.state == "half_open")
                self.calls.append((permit, self.model.epoch, self.number))
                continue
            assert refused.state == self.model.state
            assert (refused.retry_after is None) == (self.model.state == "forced_open")
            del refused  # its traceback would keep the permits that this has given before
        self.agree()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from(["success", "success", "failure", "failure", "ignore"]))
    def report(self, data, outcome):
        which = data.draw(st.integers(0, len(self.calls) - 1))
        permit, epoch, call = self.calls.pop(which)
        asked = data.draw(st.sampled_from([0, 0, 0, 50, 1000])) if outcome == "failure" else 0
        permit.failure(retry_after=asked) if outcome == "failure" else getattr(permit, outcome)()
        self.model.end(self.now, epoch, call, outcome, asked)
        getattr(permit, data.draw(st.sampled_from(["success", "failure", "ignore"])))()
        self.agree()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def renew(self, data):
        """A call shows a sign of life."""
        permit, epoch, call = self.calls[data.draw(st.integers(0, len(self.calls) - 1))]
        permit.renew()
        self.model.renew(self.now, epoch, call)
        self.agree()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), looks=st.booleans())
    def drop(self, data, looks):
        """A permit that nobody reports is ignored, as of now, whoever finds out when."""
        which = data.draw(st.integers(0, len(self.calls) - 1))
        permit, epoch, call = self.calls.pop(which)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            del permit
        self.model.end(self.now, epoch, call, "ignore", 0)
        if looks:
            self.agree()

    @rule(outcome=st.sampled_from(["success", "failure"]), times=st.integers(1, 5))
    def quick_calls(self, outcome, times):
        """Through `call`, which goes its own short way."""

        async def work():
            if outcome == "failure":
                raise ValueError

        for _ in range(times):
            self.number += 1
            calling = self.breaker.call(work)
            try:
                calling.send(None)
            except CircuitOpenError:
                assert not self.model.admit(self.now, self.number)
            except (StopIteration, ValueError):
                assert self.model.admit(self.now, self.number)
                self.model.end(self.now, self.model.epoch, self.number, outcome, 0)
        self.agree()

    @rule()
    def cancelled_call(self):
        """A call cancelled at its await is neutral."""

        async def work():
            await asyncio.sleep(0)

        self.number += 1
        calling = self.breaker.call(work)
        try:
            calling.send(None)
        except CircuitOpenError:
            assert not self.model.admit(self.now, self.number)
            return
        assert self.model.admit(self.now, self.number)
        try:
            calling.throw(asyncio.CancelledError())
        except asyncio.CancelledError:
            self.model.end(self.now, self.model.epoch, self.number, "ignore", 0)
        self.agree()

    @rule(mode=st.sampled_from(["auto", "auto", "forced_open", "disabled", "metrics_only", "reset"]))
    def by_hand(self, mode):
        if mode == "reset":
            self.breaker.reset()
            self.model.by_hand(self.now, "closed")
        elif mode != self.breaker.mode:
            self.breaker.set_mode(mode)
            self.model.by_hand(self.now, "closed" if mode == "auto" else mode)
        self.agree()

    def teardown(self):
        for permit, _, _ in getattr(self, "calls", ()):
            permit.ignore()


Compared.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestTheBreakerAgreesWithTheModel = pytest.mark.slow(Compared.TestCase)
