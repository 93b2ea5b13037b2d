"""The config: what is in force, and what is said of what is wrong."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshlite.config import Config, ConfigError, is_stream, load
from meshlite.keys import diff, sources
from meshlite.lint import lint

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_file_the_defaults_are_those_of_the_shipped_file() -> None:
    """The `config.toml` of the project says what is so anyway, to the letter of the built-in defaults."""
    shipped = (ROOT / "config.toml").read_text()
    assert shipped == (ROOT / "src/meshlite/defaults.toml").read_text()
    assert diff(load(None), load(ROOT / "config.toml"))[0] == ()
    assert load(None).path is None


def test_defaults_are_the_contracts() -> None:
    """Ports, the policies of outer and inner edges, the one fault that is ready to be switched on."""
    config = load(None)
    assert {name: service.port for name, service in config.services.items()} == {
        "users": 8080,
        "orders": 8081,
        "inventory": 8082,
    }
    assert config.control.port == 8090
    outer, inner = config.edges["users"]["orders"], config.edges["orders"]["inventory"]
    assert (outer.timeout, outer.attempt_timeout, outer.breaker and outer.breaker.max_failures) == (2.0, 0.9, 5)
    assert (inner.timeout, inner.attempt_timeout, inner.breaker and inner.breaker.max_failures) == (0.6, 0.25, 3)
    assert config.faults["slow-inventory"].enabled is False


def test_the_file_overrides_the_defaults_and_set_overrides_the_file(tmp_path: Path) -> None:
    """Defaults, then the file, then `--set`; an edge takes from [policy] what it does not say itself."""
    file = tmp_path / "m.toml"
    file.write_text(
        "[mesh]\nseed = 7\n[services.users]\nport = 1\n[policy.retry]\nattempts = 4\n"
        "[edges.orders.users]\ntimeout = 0.3"
    )
    config = load(file, ["services.users.port=2", 'mesh.data=":memory:"', "control.allowed_hosts=['a.example']"])
    assert (config.mesh.seed, config.services["users"].port, config.data) == (7, 2, None)
    assert config.control.allowed_hosts == ["a.example"]
    edge = config.edges["orders"]["users"]
    assert (edge.timeout, edge.attempt_timeout, edge.retry and edge.retry.attempts) == (0.3, 0.25, 4)


TIMEOUT, EDGE = "[policy]\ntimeout = 3.0\n", "[edges.orders.inventory]\ntimeout = 0.7\n"


@pytest.mark.parametrize(
    ("file", "flags", "timeout", "source"),
    [
        ("", [], 0.6, "default"),
        (TIMEOUT, [], 3.0, "file"),
        (EDGE, [], 0.7, "file"),
        (TIMEOUT + EDGE, [], 0.7, "file"),
        (EDGE, ["policy.timeout=4"], 4.0, "flag"),
        (TIMEOUT + EDGE, ["policy.timeout=false"], None, "flag"),
        (TIMEOUT, ["edges.orders.inventory.timeout=0.8", "policy.timeout=4"], 0.8, "flag"),
    ],
)
def test_what_is_said_of_all_edges_holds_for_each_but_for_exceptions_beside_it(
    tmp_path: Path, file: str, flags: list[str], timeout: float | None, source: str
) -> None:
    """An exception that the defaults make is none from the file's rule, and one of the file's none from a flag."""
    (tmp_path / "config.toml").write_text(file)
    config = load(None, flags)
    assert sources(config)["edges.orders.inventory.timeout"] == source
    edge = config.edges["orders"]["inventory"]
    assert (edge.timeout, edge.attempt_timeout) == (timeout, 0.25)


def test_one_flag_switches_a_rule_off_everywhere_and_another_on_again_somewhere() -> None:
    """Also where the defaults have a rule of their own for an edge."""
    config = load(None, ["policy.breaker=false", "edges.orders.users.breaker.max_failures=7"])
    assert config.edges["users"]["orders"].breaker is config.edges["orders"]["inventory"].breaker is None
    breaker = config.edges["orders"]["users"].breaker
    assert breaker and (breaker.max_failures, breaker.reset_timeout) == (7, 5.0)


def test_config_toml_of_the_folder_is_read_unless_another_is_named(tmp_path: Path) -> None:
    """No `--config`: `config.toml` here, if it is here; data is relative to the config's folder."""
    (tmp_path / "config.toml").write_text("[mesh]\nseed = 3")
    assert (load(None).mesh.seed, load(None).data) == (3, tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.toml").write_text("[mesh]\ndata = 'd'")
    assert load(Path("other/x.toml")).data == tmp_path / "other" / "d"


@pytest.mark.parametrize("rule", ["breaker", "retry", "bulkhead", "timeout", "attempt_timeout"])
def test_every_rule_can_be_switched_off(rule: str) -> None:
    """`false` is no rule at all: for every edge that has none of its own, or for one edge."""
    config = load(None, [f"policy.{rule}=false", f"edges.orders.inventory.{rule}=false"])
    assert getattr(config.edges["users"]["orders"], rule) is None
    assert getattr(config.edges["orders"]["inventory"], rule) is None


def test_single_rules_of_a_policy_can_be_switched_off() -> None:
    """max_failures, the retry budget, admission."""
    config = load(None, ["policy.breaker.max_failures=false", "policy.retry.budget=false", "policy.admission=false"])
    edge = config.edges["users"]["orders"]
    assert edge.breaker and edge.breaker.max_failures is None
    assert edge.retry and edge.retry.budget is None
    assert config.policy.admission is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("services.users.port=abc", "services.users.port: expected a whole number, got 'abc'"),
        ("services.users.port=70000", "services.users.port: expected a whole number of at most 65535, got 70000"),
        ("services.billing.port=1", "services.billing: unknown service; known: users, orders, inventory"),
        (
            "polici.timeout=1",
            "polici: unknown section; known: mesh, log, control, limits, policy, services, edges, faults",
        ),
        ("policy.brekaer=false", "policy.brekaer: unknown; did you mean breaker?"),
        ("mesh.sede=1", "mesh.sede: unknown; did you mean seed?"),
        ("policy.retry.delay=1", "policy.retry.delay: unknown; did you mean base_delay or max_delay?"),
        ("policy.breaker.timeout=1", "policy.breaker.timeout: unknown; did you mean reset_timeout?"),
        ("services.users.format=1", "services.users.format: unknown; known: port, app"),
        (
            "policy.reset=1",
            "policy.reset: unknown; known: timeout, attempt_timeout, retry, bulkhead, breaker, admission",
        ),
        (
            "faults.slow-inventory.disabled=true",
            "faults.slow-inventory.disabled: unknown; known: service, kind, enabled",
        ),
        ("policy.timeout=nan", "policy.timeout: expected a number above 0, got nan"),
        ("policy.timeout=0", "policy.timeout: expected a number above 0, got 0"),
        ("policy.timeout=true", "policy.timeout: expected a number or false, got True"),
        ("policy.retry.attempts=0", "policy.retry.attempts: expected a whole number of at least 1, got 0"),
        ("policy=1", "policy: expected a table, got 1"),
        ("services=1", "services: expected a table, got 1"),
        ("services.users=1", "services.users: expected a table, got 1"),
        ("mesh.shutdown_grace=inf", "mesh.shutdown_grace: expected a number of at most 3600, got inf"),
        ("edges.users.inventory.timeout=1", "edges.users.inventory: no such edge; the mesh has edges.users.orders"),
        ("edges.users=1", "edges.users: expected a table for each callee, got 1"),
        ("edges.orders.users=1", "edges.orders.users: expected a table, got 1"),
        (
            "edges.orders.users.admission=false",
            "edges.orders.users.admission: belongs to the callee: see policy.admission",
        ),
        ("faults.x.kind=delay", "faults.x.seconds: missing"),
        (
            "faults.x.kind=lag",
            "faults.x.kind: expected one of delay, error, reset",
        ),
        ("faults.x.enabled=true", "faults.x.kind: expected one of delay, error"),
        ("faults.x=1", "faults.x: expected"),
        (
            "faults._x.kind=delay",
            "faults._x: expected a name of at most 63 letters, digits, hyphens and underscores, the",
        ),
        (
            "faults.slow-inventory.service=stock",
            "faults.slow-inventory.service: expected one of users, orders, inventory",
        ),
        (
            "faults.slow-inventory.caller=me",
            "faults.slow-inventory.caller: expected one of users, orders, inventory, external",
        ),
        (
            "faults.slow-inventory.probability=1.5",
            "faults.slow-inventory.probability: expected a number of at most 1, got 1.5",
        ),
        ("mesh.host=0.0.0.0", "control.token: missing: required because mesh.host 0.0.0.0 is not a loopback address"),
        ("mesh.host=example.org", "mesh.host: expected an IP address or localhost, got 'example.org'"),
        ("services.orders.port=8080", "services.orders.port: port 8080 is services.users.port's already"),
        ("nonsense", "--set 'nonsense': expected KEY=VALUE"),
        ("a..b=1", "--set 'a..b=1': expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(override: str, said: str) -> None:
    """What, where, and what instead."""
    with pytest.raises(ConfigError) as raised:
        load(None, [override])
    assert any(said in problem for problem in raised.value.problems), raised.value.problems
    assert all("\n" not in problem for problem in raised.value.problems)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A file with five faults is told of five faults, each with the file's name."""
    file = tmp_path / "bad.toml"
    file.write_text(
        'x = 1\n[mesh]\nseed = "a"\nhots = "b"\n[policy.retry]\nattempts = 0\n'
        '[faults.f]\nkind = "delay"\nservice = "users"'
    )
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert len(raised.value.problems) == 5
    assert all(problem.startswith(f"{file}: ") for problem in raised.value.problems)


def test_what_only_shows_between_keys_is_said_with_the_rest() -> None:
    """A port asked for twice, a host without a token, a fault that is wrong in two ways: all in one go."""
    wrong = ["policy.timeout=0", "services.orders.port=8080", "mesh.host=0.0.0.0", "faults._F.service=zzz", "bad"]
    with pytest.raises(ConfigError) as raised:
        load(None, wrong)
    said = "\n".join(raised.value.problems)
    for part in (
        "policy.timeout",
        "services.orders.port",
        "control.token",
        "faults._F:",
        "faults._F.kind",
        "faults._F.service",
        "'bad'",
    ):
        assert part in said, part


def test_a_name_has_no_line_break() -> None:
    """A fault's name goes into a header: nothing may hide behind its end."""
    with pytest.raises(ConfigError, match="expected a name of at most 63 letters"):
        load(None, ["faults={\"bad\\n\"={kind='error', service='users', status=500}}"])


def test_the_order_of_overrides_does_not_matter() -> None:
    """A fault can be put together key by key, whatever comes first."""
    keys = ["faults.x.service=inventory", "faults.x.kind=delay", "faults.x.seconds=1"]
    assert load(None, keys).faults["x"] == load(None, keys[::-1]).faults["x"]
    other = load(None, ["faults.slow-inventory={kind='error', service='users', status=500}"])
    assert set(other.faults) == {"slow-inventory"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[mesh", "is not TOML"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Broken TOML, broken UTF-8, no file."""
    file = tmp_path / "f.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as raised:
        load(file)
    assert len(raised.value.problems) == 1


def test_any_other_host_needs_a_token() -> None:
    """Loopback needs none; with a token any address goes."""
    assert load(None, ["mesh.host=::1"]).mesh.host == "::1"
    assert load(None, ["mesh.host=0.0.0.0", "control.token=secret-secret"]).mesh.host == "0.0.0.0"


def test_a_diff_tells_what_can_be_taken_up_at_once() -> None:
    """Faults are hot; a port waits for a restart."""
    hot, restart = diff(load(None), load(None, ["faults.slow-inventory.enabled=true", "services.users.port=9"]))
    assert hot == ("faults.slow-inventory.enabled",)
    assert restart == ("services.users.port",)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(
        ["delay", "error", "users", "orders", ":memory:", "meshlite.services.users:create_app", "127.0.0.1"]
    ),
)
KEYS = st.sampled_from(["enabled", "port", "timeout", "kind", "service", "a", "A b", "", "é"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Tables much like a config: known keys in known places, and not only those, with values of any kind."""
    defaults = tomllib.loads((ROOT / "config.toml").read_text())

    def some(table: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in table.items() if draw(st.integers(0, 3)) == 0}
        found = {
            key: some(value) if isinstance(value, dict) and draw(st.booleans()) else draw(VALUES)
            for key, value in kept.items()
        }
        if draw(st.integers(0, 4)) == 0:
            found[draw(KEYS)] = draw(VALUES)
        return found

    return some(defaults)


def toml(value: Any) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value)
    return str(value)


def loaded(file: Path) -> Config | tuple[str, ...]:
    """The config, or what is wrong with it."""
    try:
        return load(file)
    except ConfigError as error:
        return tuple(error.problems)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_whatever_is_in_the_file_it_is_a_config_or_an_error(tmp_path: Path, table: dict[str, Any]) -> None:
    """Any table of any values: a config, whose keys can be listed, or a ConfigError with a line for each fault."""
    file = tmp_path / "any.toml"
    file.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()))
    found = loaded(file)
    if isinstance(found, Config):
        assert diff(found, found) == ((), ())
        assert lint(found) is not None
    else:
        assert found
        assert all("\n" not in problem for problem in found)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_whatever_the_file_is_it_is_a_config_or_an_error(tmp_path: Path, data: bytes) -> None:
    """Any bytes."""
    file = tmp_path / "any.toml"
    file.write_bytes(data)
    assert loaded(file)


@pytest.mark.parametrize(
    "place", ["mesh.data", "policy", "policy.retry", "faults.x", "faults.x.kind", "edges.orders.users", "x"]
)
@pytest.mark.parametrize("depth", [90, 900, 3_000])
def test_a_config_may_be_as_deep_as_it_likes(tmp_path: Path, place: str, depth: int) -> None:
    """Deep tables, deep lists, deep keys on the command line: a ConfigError, whatever Python can bear."""
    file = tmp_path / "deep.toml"
    for text in (f"{place}.{'a.' * depth}a = 1", f"{place} = {'[' * depth}{']' * depth}"):
        file.write_text(text)
        with pytest.raises(ConfigError):
            load(file)
    with pytest.raises(ConfigError):
        load(None, [f"{place}.{'a.' * depth}a=1"])


def test_a_file_may_have_a_hundred_faults(tmp_path: Path) -> None:
    """More are one line, beside all else that is wrong; those of the flags and the built-in one count."""
    file = tmp_path / "config.toml"
    file.write_text("".join(f"[faults.f{n}]\nservice = 'users'\nkind = 'hang'\n" for n in range(98)))
    assert len(load(file, ["faults.g={service='users', kind='hang'}"]).faults) == 100
    with pytest.raises(ConfigError) as refused:
        load(file, [f"faults.{name}={{service='users', kind='hang'}}" for name in ("g", "h")] + ["mesh.seed=x"])
    assert refused.value.problems == (
        "--set mesh.seed: expected a whole number, got 'x'",
        f"{file} with --set: faults: expected at most 100 faults, got 101",
    )


def test_a_file_that_cannot_even_be_looked_at_is_one_line(tmp_path: Path) -> None:
    """Not a traceback, nor at a reload: a folder may have been closed meanwhile; here a name is too long."""
    file = tmp_path / ("x" * 300)
    assert not is_stream(file)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert refused.value.problems[0].endswith(": cannot be read: File name too long")


@pytest.mark.parametrize("flag", ["mesh.seed=3", "services.orders.port=9000"])
def test_a_port_that_is_asked_for_twice_is_said_of_whoever_asks_last(tmp_path: Path, flag: str) -> None:
    """Not of a flag that has nothing to do with it."""
    file = tmp_path / "config.toml"
    file.write_text("[services]\nusers.port = 9000\n" + ("" if "orders" in flag else "orders.port = 9000\n"))
    with pytest.raises(ConfigError) as refused:
        load(file, [flag])
    who = "--set " if "orders" in flag else f"{file}: "
    assert refused.value.problems == (f"{who}services.orders.port: port 9000 is services.users.port's already",)


def test_what_is_wrong_is_said_of_whoever_said_it(tmp_path: Path) -> None:
    """Nobody looks for a key of the file among the flags; what both say together is both's."""
    file = tmp_path / "config.toml"
    file.write_text("[policy]\ntimeout = 'x'\nmax_retries = 1\n[faults.x]\nseconds = -1\n[log]\nlevel = 'no'\n")
    with pytest.raises(ConfigError) as refused:
        load(file, ["policy.retry.attempts=0", "log.level=never", "faults.x.kind='slow'"])
    said = [problem.replace(str(file), "FILE") for problem in refused.value.problems]
    assert [problem.partition(": expected")[0].partition(": unknown")[0] for problem in said] == [
        "--set log.level",
        "FILE: policy.timeout",
        "--set policy.retry.attempts",
        "FILE: policy.max_retries",
        "--set faults.x.kind",
        "FILE: faults.x.seconds",
        "FILE with --set: faults.x.service: missing",
    ]
