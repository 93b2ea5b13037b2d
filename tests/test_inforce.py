"""The config while it runs: the file, the edits over it, what has a duration, and where each value came from."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import LogCapture

from meshlite.config import Config, build, check, load
from meshlite.events import Bus, ConfigApplied, ConfigDeferred, ConfigRejected, ConfigShadowed, Fact, FaultSwitched
from meshlite.inforce import InForce
from meshlite.keys import flat, sources
from meshlite.layers import Layers
from meshlite.validation import Invalid
from tests.conftest import StartMesh

SLOW = '[faults.slow]\nservice = "users"\nkind = "delay"\nseconds = 2.0\nprobability = 0.5\n'
ON = "enabled = true\n"


class Kept:
    """A config in force, its file, and what was told and applied."""

    def __init__(self, file: Path, text: str, *flags: str) -> None:
        self.file = file
        self.flags = flags
        file.write_text(text)
        self.facts: list[Fact] = []
        self.applied: list[Config] = []
        self.log = LogCapture()
        bus = Bus(lambda sink, error: pytest.fail(f"{sink}: {error}"))
        bus.subscribe(self.facts.append)
        log = structlog.wrap_logger(None, processors=[self.log])
        self.inforce = InForce(self.read(), self.applied.append, bus, log)
        self.inforce.begin()

    def read(self) -> Config:
        return load(self.file, self.flags)

    def write(self, text: str) -> None:
        """The file says so from now on."""
        self.file.write_text(text)
        self.inforce.take_up(self.read)

    def rule(self, name: str = "slow") -> dict[str, Any] | None:
        """What is in force of a fault, where it is not as usual."""
        rule = self.inforce.config.faults.get(name)
        return None if rule is None else msgspec.to_builtins(rule)

    def told(self, kind: type[Fact]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


Keep = Callable[..., Kept]


@pytest.fixture
async def keep(tmp_path: Path) -> Any:
    """Make one."""
    made: list[Kept] = []

    def make(text: str = "", *flags: str) -> Kept:
        made.append(Kept(tmp_path / "config.toml", text, *flags))
        return made[-1]

    yield make
    for kept in made:
        kept.inforce.end()


async def test_an_edit_holds_until_the_file_says_something_else_about_its_key(keep: Keep) -> None:
    """Over a change of another key, of another fault, of another section; key by key."""
    kept = keep(SLOW)
    kept.inforce.edit("slow", {"enabled": True, "seconds": 9.0})
    kept.write("[log]\nlevel = 'warning'\n" + SLOW + "[faults.other]\nkind = 'reset'\nservice = 'users'\n")
    assert (kept.rule()["enabled"], kept.rule()["seconds"]) == (True, 9.0)
    kept.write(SLOW.replace("0.5", "0.25"))
    assert kept.rule() == {"service": "users", "kind": "delay", "enabled": True, "seconds": 9.0, "probability": 0.25}
    kept.write(SLOW.replace("2.0", "3.0"))
    assert (kept.rule()["enabled"], kept.rule()["seconds"]) == (True, 3.0)
    kept.write(SLOW.replace("2.0", "3.0") + "enabled = false\n")
    assert "enabled" not in kept.rule()


async def test_put_leaves_nothing_of_what_was_there(keep: Keep) -> None:
    """Neither of the file's table nor of an edit's; put again, or after a removal: the same."""
    kept = keep(SLOW + "method = 'GET'\n")
    table = {"service": "users", "kind": "delay", "seconds": 1.0}
    for _ in range(3):
        kept.inforce.put("slow", table)
        assert kept.rule() == table
    kept.inforce.edit("slow", {"caller": "orders"})
    kept.inforce.put("slow", table)
    assert kept.rule() == table
    kept.inforce.edit("slow", None)
    assert kept.rule() is None
    kept.inforce.put("slow", table)
    assert kept.rule() == table
    kept.write(SLOW + "method = 'GET'\nduration = 5\n")
    assert kept.rule() == table | {"duration": 5.0}


async def test_a_key_that_is_taken_back_is_as_if_never_said(keep: Keep) -> None:
    """None takes a key back, the file's too."""
    kept = keep(SLOW)
    kept.inforce.edit("slow", {"probability": None})
    assert kept.rule() == {"service": "users", "kind": "delay", "seconds": 2.0}
    assert sources(kept.inforce.config)["faults.slow.probability"] == "api"
    assert sources(kept.inforce.config)["faults.slow.seconds"] == "file"


async def test_a_fault_that_changes_its_kind_loses_what_belonged_to_the_old_one(keep: Keep) -> None:
    """Whoever had said it: the file or an edit; there and back."""
    kept = keep(SLOW)
    kept.inforce.edit("slow", {"jitter": 1.0})
    kept.inforce.edit("slow", {"kind": "error", "status": 500})
    assert kept.rule() == {"service": "users", "kind": "error", "probability": 0.5, "status": 500}
    found = sources(kept.inforce.config)
    assert [found[f"faults.slow.{key}"] for key in ("kind", "seconds", "probability")] == ["api", "default", "file"]
    kept.inforce.edit("slow", {"kind": "delay", "seconds": 7.0})
    assert kept.rule() == {"service": "users", "kind": "delay", "probability": 0.5, "seconds": 7.0}


async def test_a_default_fault_can_be_removed(keep: Keep) -> None:
    """And stays away while the file says nothing new about it; it comes back when it does."""
    kept = keep(SLOW)
    kept.inforce.edit("slow-inventory", None)
    kept.write(SLOW + ON)
    assert "slow-inventory" not in kept.inforce.config.faults
    kept.write(SLOW + "[faults.slow-inventory]\nseconds = 1.0\n")
    assert kept.inforce.config.faults["slow-inventory"].seconds == 1.0


async def test_an_edit_without_ground_takes_no_other_with_it(keep: Keep) -> None:
    """The file drops a fault: an edit of two of its keys means nothing any more, another fault's edit holds."""
    kept = keep(SLOW)
    kept.inforce.edit("slow", {"caller": "orders"})
    kept.inforce.put("own", {"service": "users", "kind": "reset", "enabled": True})
    kept.inforce.edit("slow-inventory", {"seconds": 1.0})
    kept.write("")
    assert kept.rule() is None
    assert kept.rule("own") == {"service": "users", "kind": "reset", "enabled": True}
    assert kept.inforce.config.faults["slow-inventory"].seconds == 1.0


async def test_an_edit_that_makes_no_sense_changes_nothing(keep: Keep) -> None:
    """It is refused with its places; what was in force is."""
    kept = keep(SLOW)
    before = kept.inforce.config
    for keys in ({"status": 500}, {"seconds": -1}, {"kind": "lag"}, {"what": 1}, {"kind": None}, {"headers": {"a": 1}}):
        with pytest.raises(Invalid) as raised:
            kept.inforce.edit("slow", keys)
        assert raised.value.faults[0].path[:2] == ("faults", "slow")
    with pytest.raises(Invalid):
        kept.inforce.put("new", {"kind": "reset"})
    assert kept.inforce.config is before
    assert kept.facts == []


async def test_a_key_with_a_dot_in_it_has_one_name_and_its_own_source(keep: Keep) -> None:
    """A header's name may have dots: it is in quotes, as TOML writes it, in a file, a flag and what is told of it."""
    text = SLOW + "[faults.slow.headers]\n'a.b' = '1'\nx = '2'\n"
    kept = keep(text, 'faults.slow.response_headers."c.d"=3', "faults.slow.kind=error", "faults.slow.status=500")
    now = kept.inforce.config
    assert {key: value for key, value in flat(now).items() if "headers." in key} == {
        'faults.slow.headers."a.b"': "1",
        "faults.slow.headers.x": "2",
        'faults.slow.response_headers."c.d"': "3",
    }
    found = sources(now)
    assert found['faults.slow.headers."a.b"'] == "file"
    assert found['faults.slow.response_headers."c.d"'] == "flag"
    kept.write(text.replace("'1'", "'4'"))
    assert kept.told(ConfigApplied) == [ConfigApplied(('faults.slow.headers."a.b"',), "file")]


async def test_what_is_told_of_a_new_fault_is_what_somebody_said_of_it(keep: Keep) -> None:
    """Not the keys that every fault has; nor are they when it goes."""
    kept = keep("")
    kept.write("[faults.new]\nservice = 'users'\nkind = 'hang'\n")
    kept.write("")
    told = ("faults.new.kind", "faults.new.service")
    assert [fact.changed for fact in kept.told(ConfigApplied)] == [told, told]


async def test_each_value_says_where_it_came_from(keep: Keep) -> None:
    """The highest of default, file, flag and api that speaks of it: of an edge itself, or of all edges."""
    kept = keep(
        SLOW + "[policy]\nattempt_timeout = 0.5\n[edges.orders.users]\nattempt_timeout = 0.3\n",
        "faults.slow.probability=0.1", "mesh.seed=4", "policy.bulkhead.max_waiting=3",
    )  # fmt: skip
    kept.inforce.edit("slow", {"enabled": True})
    found = sources(kept.inforce.config)
    assert {key: found[key] for key in found if key in SOURCES} == SOURCES
    assert set(found) == set(flat(kept.inforce.config))
    assert set(found.values()) <= {"default", "file", "flag", "api"}


SOURCES = {
    "faults.slow.enabled": "api",
    "faults.slow.probability": "flag",
    "faults.slow.seconds": "file",
    "faults.slow.phase": "default",
    "faults.slow-inventory.seconds": "default",
    "mesh.seed": "flag",
    "policy.attempt_timeout": "file",
    "edges.users.orders.attempt_timeout": "file",
    "edges.users.orders.timeout": "default",
    "edges.orders.inventory.attempt_timeout": "file",
    "edges.orders.inventory.timeout": "default",
    "edges.orders.users.attempt_timeout": "file",
    "edges.orders.users.bulkhead.max_waiting": "flag",
    "edges.orders.users.bulkhead.max_concurrent": "default",
}


@pytest.mark.looptime
async def test_a_duration_ends_a_fault_and_begins_anew_when_its_rule_changes(keep: Keep) -> None:
    """Counted from when it came on, or from its last change; a change elsewhere, or the same again, is none."""
    kept = keep(SLOW + ON + "duration = 10.0\n")
    remaining = kept.inforce.remaining
    await asyncio.sleep(4)
    assert remaining("slow") == pytest.approx(6)
    kept.inforce.edit("slow", {"enabled": True})
    kept.inforce.put("other", {"service": "users", "kind": "reset"})
    assert remaining("slow") == pytest.approx(6)
    kept.inforce.edit("slow", {"seconds": 3.0})
    assert remaining("slow") == pytest.approx(10)
    await asyncio.sleep(9)
    assert kept.rule()["enabled"] is True
    await asyncio.sleep(2)
    assert "enabled" not in kept.rule()
    assert remaining("slow") is None
    assert kept.told(FaultSwitched) == [FaultSwitched("slow", False, "duration")]
    kept.inforce.edit("slow", {"enabled": True})
    await asyncio.sleep(11)
    assert [(fact.enabled, fact.by) for fact in kept.told(FaultSwitched)[1:]] == [(True, "api"), (False, "duration")]


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["off", "removed", "without duration", "dropped by the file"])
async def test_no_timer_outlives_its_fault(keep: Keep, how: str) -> None:
    """Whatever ends it earlier: nothing happens when its time would have come."""
    kept = keep(SLOW + ON + "duration = 10.0\n")
    match how:
        case "off":
            kept.inforce.edit("slow", {"enabled": False})
        case "removed":
            kept.inforce.edit("slow", None)
        case "without duration":
            kept.inforce.edit("slow", {"duration": None})
        case _:
            kept.write("")
    told = len(kept.facts)
    assert kept.inforce.remaining("slow") is None
    await asyncio.sleep(60)
    assert len(kept.facts) == told


async def test_what_came_through_a_pipe_is_not_looked_at_again(keep: Keep) -> None:
    """There is nothing in it any more; that is no change."""
    kept = keep()
    kept.inforce.config = msgspec.structs.replace(kept.inforce.config, path=Path("/dev/null"))
    await kept.inforce.watch(lambda: pytest.fail("it was read"))


async def test_a_wrong_file_changes_nothing(keep: Keep) -> None:
    """One fact with all that is wrong; the edits hold, the timers run, and the mended file is taken up."""
    kept = keep(SLOW + ON + "duration = 10.0\n")
    kept.inforce.edit("slow", {"seconds": 9.0})
    before = kept.inforce.config
    kept.write(SLOW + "[policy]\ntimeout = 0\n[faults.bad]\nkind = 'x'\n")
    (fact,) = kept.told(ConfigRejected)
    assert len(fact.problems) == 3
    assert kept.inforce.config is before
    assert kept.inforce.remaining("slow") == pytest.approx(10, abs=0.5)
    kept.write(SLOW + "[policy]\ntimeout = 1.5\n")
    assert (kept.inforce.config.policy.timeout, kept.rule()["seconds"]) == (1.5, 9.0)


async def test_what_is_wrong_with_the_file_is_known_until_it_is_mended(keep: Keep) -> None:
    """All of it, and since when it has been wrong, however often it was saved meanwhile."""
    kept = keep(SLOW)
    assert (kept.inforce.problems, kept.inforce.problems_since) == ((), None)
    kept.write("[policy]\ntimeout = 0\n")
    since = kept.inforce.problems_since
    assert since is not None
    kept.write("[policy]\ntimeout = 0\nx = 1\n")
    assert len(kept.inforce.problems) == 2
    assert kept.inforce.problems_since == since
    kept.write(SLOW)
    assert (kept.inforce.problems, kept.inforce.problems_since) == ((), None)


async def test_a_mended_file_that_changes_nothing_says_so_in_one_line(keep: Keep) -> None:
    """Once, and only where no other line says that the file was taken up; whoever asks is told that nothing changed."""
    kept = keep(SLOW)
    for text, said in (
        (SLOW + "# all is well\n", []),
        ("[policy]\ntimeout = 0\n", []),
        (SLOW, ["config.mended"]),
        (SLOW, []),
        ("[policy", []),
        (SLOW + "[log]\nlevel = 'warning'\n", []),  # config.applied says it
        ("[policy", []),
        (SLOW + "[log]\nlevel = 'warning'\n[mesh]\nseed = 1\n", []),  # config.deferred does
    ):
        kept.log.entries.clear()
        kept.write(text)
        assert [line["event"] for line in kept.log.entries] == said
    for text, said in (
        ("[policy", []),
        (SLOW, []),
        (SLOW, ["config.unchanged"]),
        ("[mesh", []),
        (SLOW, ["config.mended"]),
    ):
        kept.log.entries.clear()
        kept.file.write_text(text)
        kept.inforce.take_up(kept.read, asked=True)
        assert [line["event"] for line in kept.log.entries] == said
    assert kept.log.entries == [{"event": "config.mended", "log_level": "info", "path": str(kept.file)}]


async def test_what_the_file_says_in_vain_is_said(keep: Keep) -> None:
    """Where a flag or an edit has the last word on a key of which the file says something new; once each time."""
    kept = keep(SLOW + "[mesh]\nseed = 1\n", "policy.timeout=3", "mesh.seed=2", "faults.slow.seconds=9")
    for text, told in (
        (SLOW + "[policy]\ntimeout = 2.5\n", {"policy.timeout": "flag"}),
        (SLOW + "[policy]\ntimeout = 2.5\nattempt_timeout = 0.5\n", None),
        (SLOW + "[policy]\ntimeout = 3\n", None),  # as the flag has it
        (
            SLOW + "[edges.orders.users]\ntimeout = 2.6\n",
            {"edges.orders.users.timeout": "flag"},
        ),  # a flag for all edges
        (SLOW + "[edges.orders.users]\ntimeout = 2.6\nattempt_timeout = 0.5\n", None),
        (SLOW.replace("2.0", "4.0") + "[mesh]\nseed = 5\n", {"faults.slow.seconds": "flag", "mesh.seed": "flag"}),
        (SLOW.replace("2.0", "4.0"), None),
    ):
        before = len(kept.told(ConfigShadowed))
        kept.write(text)
        assert [fact.keys for fact in kept.told(ConfigShadowed)[before:]] == ([told] if told else [])


async def test_a_new_value_of_a_key_that_an_edit_has_done_away_with_is_said(keep: Keep) -> None:
    """A fault that became another kind has no use for what the file says of the old one."""
    kept = keep(SLOW)
    kept.inforce.edit("slow", {"kind": "error", "status": 500})
    kept.write(SLOW.replace("2.0", "4.0"))
    assert kept.told(ConfigShadowed) == [ConfigShadowed({"faults.slow.seconds": "api"})]
    kept.inforce.edit("slow", {"probability": 0.1})
    kept.write(SLOW.replace("2.0", "4.0").replace("0.5", "0.6"))  # the file's word on the key itself ends the edit
    assert len(kept.told(ConfigShadowed)) == 1


async def test_a_reload_that_crashes_is_logged_and_changes_nothing(keep: Keep) -> None:
    """Whatever was in the file."""
    kept = keep(SLOW)

    def crash() -> Config:
        raise RuntimeError("bug")

    before = kept.inforce.config
    kept.inforce.take_up(crash)
    assert kept.inforce.config is before
    assert [entry["event"] for entry in kept.log.entries] == ["config.crashed"]


async def test_a_config_that_cannot_be_put_into_force_is_logged(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is taken up: nobody is left without a watcher."""
    kept = keep(SLOW)

    def crash(_: Config) -> None:
        raise RuntimeError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(kept.inforce, "_apply", crash)
        kept.write(SLOW.replace("2.0", "4.0"))
    assert [entry["event"] for entry in kept.log.entries] == ["config.crashed"]
    kept.write(SLOW.replace("2.0", "5.0"))
    assert kept.inforce.config.faults["slow"].seconds == 5.0


async def test_what_cannot_be_taken_up_is_said_once(keep: Keep) -> None:
    """Ports, data, seed and the control plane wait for a restart; going back on them is the end of it."""
    kept = keep(SLOW)
    late = "[services.users]\nport = 9\n[mesh]\ndata = 'd'\nseed = 3\n[control]\nport = 8\n"
    for text in (late + SLOW, late + SLOW + ON, late + SLOW):
        kept.write(text)
    keys = ("control.port", "mesh.data", "mesh.seed", "services.users.port")
    assert kept.told(ConfigDeferred) == [ConfigDeferred(keys)]
    assert kept.inforce.waiting == keys
    assert kept.inforce.config.services["users"].port == 8080
    assert [fact.changed for fact in kept.told(ConfigApplied)] == [("faults.slow.enabled",)] * 2
    kept.inforce.edit("slow", {"enabled": True})
    assert len(kept.told(ConfigDeferred)) == 1
    kept.write(SLOW)
    assert kept.inforce.waiting == ()


@pytest.mark.slow
async def test_policies_edges_and_the_log_level_come_by_the_file(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Into a running mesh: the breaker of an edge, the admission of a service, the level; what is unchanged keeps."""
    file = tmp_path / "config.toml"
    file.write_text("")
    levels: list[str] = []
    world = await start_mesh(config=file, set_level=levels.append)
    await world.get("orders", "/orders")
    file.write_text(
        "[log]\nlevel = 'error'\n[policy.admission]\nmax_concurrent = 7\nmax_waiting = 0\n"
        "[edges.orders.inventory.breaker]\nmax_failures = 1\n"
    )
    for _ in range(100):
        if world.logged("config.applied"):
            break
        await asyncio.sleep(0.02)
    assert levels == ["info", "error"]
    assert world.mesh.services["users"].boundary.admission.max_concurrent == 7
    assert world.mesh.edges["orders", "inventory"].policy.breaker.max_failures == 1
    world.mesh.inforce.put("down", {"service": "inventory", "kind": "error", "status": 500, "enabled": True})
    await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
    edges = (await world.get("control", "/api/edges")).json["edges"]
    assert [e["policy"]["breaker"]["max_failures"] for e in edges if e["callee"] == "inventory"] == [1]
    config = {v["key"]: v for v in (await world.get("control", "/api/config")).json["config"]}
    assert config["edges.orders.inventory.breaker.max_failures"]["source"] == "file"
    assert config["faults.down.kind"]["source"] == "api"


NAMES = ["a", "kind", "body", "slow-inventory"]
VALUES: dict[str, Any] = {
    "service": st.sampled_from(["users", "orders"]),
    "kind": st.sampled_from(["delay", "error", "reset", "throttle", "unready"]),
    "enabled": st.booleans(),
    "seconds": st.sampled_from([1.0, 2.0, -1.0]),
    "status": st.sampled_from([500, 503, 7]),
    "bytes_per_second": st.just(10),
    "probability": st.sampled_from([0.1, 0.9]),
    "headers": st.dictionaries(st.sampled_from(["x", "kind"]), st.sampled_from(["1", "2"])),
}
tables = st.fixed_dictionaries({}, optional=VALUES)
edits = st.fixed_dictionaries({}, optional={key: st.one_of(st.none(), value) for key, value in VALUES.items()})
faults = st.dictionaries(st.sampled_from(NAMES), tables)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.sampled_from(NAMES), st.one_of(st.none(), edits)),
        st.tuples(st.just("put"), st.sampled_from(NAMES), tables),
        st.tuples(st.just("file"), st.just(""), faults),
    ),
    max_size=8,
)


DEFAULT = load(None).layers.default


def layers_of(file: Any, flag: Any) -> Layers:
    return Layers(default=DEFAULT, file={"faults": file}, flag={"faults": flag})


@settings(max_examples=100, deadline=None)
@given(faults, faults, steps)
def test_whatever_is_laid_over_each_other_the_order_holds(file: Any, flag: Any, changes: Any) -> None:
    """Nothing crashes; what an edit says is in force, else what the flags say, else the file, else the default."""
    layers = layers_of(file, flag)
    for what, name, value in changes:
        if what == "file":
            layers = layers_of(value, flag).over(layers)
        else:
            layers = layers.edited(name, value) if what == "edit" else layers.put(name, value)
            found = layers.merged()["faults"].get(name)
            if value is None:
                assert found is None
            elif what == "put":
                assert found == value
            else:
                assert found is not None
                assert all(found.get(key) == said for key, said in value.items())
    merged = layers.merged()["faults"]
    for name, table in merged.items():
        for key, value in table.items():
            source = layers.source("faults", name, key)
            assert source is not None
            over = layers.api.get(name) if source == "api" else getattr(layers, source)["faults"][name]
            assert over is not None
            if key != "headers":  # a table, laid over table by table
                assert over[key] == value, (name, key, source)
    if not check(layers):
        config = build(layers, None, Path())
        assert set(config.faults) == set(merged)
        assert set(sources(config)) == set(flat(config))


async def test_a_fault_that_came_and_went_by_an_edit_leaves_nothing(start_mesh: StartMesh) -> None:
    """However many: what is remembered is only what the layers below would bring back."""
    world = await start_mesh()
    inforce = world.mesh.inforce
    for number in range(20):
        inforce.put(f"f{number}", {"service": "users", "kind": "hang"})
        inforce.edit(f"f{number}", None)
    inforce.edit("slow-inventory", None)
    assert inforce.config.layers.api == {"slow-inventory": None}


async def test_a_policy_that_turns_against_itself_while_it_runs_is_said(start_mesh: StartMesh) -> None:
    """The warnings of `check`, those that are new."""
    world = await start_mesh()
    inforce = world.mesh.inforce
    inforce.take_up(lambda: world.read(["policy.retry.attempts=5"]))
    assert any("5" in line["problem"] for line in world.logged("config.questionable"))
    said = len(world.logged("config.questionable"))
    inforce.take_up(lambda: world.read(["policy.retry.attempts=5", "log.level=debug"]))
    assert len(world.logged("config.questionable")) == said


async def test_what_a_fault_did_is_known_after_it_went(start_mesh: StartMesh) -> None:
    """Its hits stay until it is on again, and each of two faults on one request is counted by itself."""
    on = ("enabled=true", "service=users", "kind=delay", "seconds=0.001")
    world = await start_mesh(*(f"faults.{name}.{key}" for name in "ab" for key in on))
    for _ in range(3):
        await world.get("users", "/users/1")
    await world.ask("PATCH", "control", "/api/faults/a", {"enabled": False})
    faults = {fault["name"]: fault for fault in (await world.get("control", "/api/faults")).json["faults"]}
    assert (faults["a"]["hits"], faults["a"]["matches"], faults["b"]["hits"]) == (3, 3, 3)
    metrics = (await world.get("control", "/metrics")).body.decode()
    assert [f'{{fault="{name}",service="users"}} 3.0' in metrics for name in "ab"] == [True, True]
    await world.ask("PATCH", "control", "/api/faults/a", {"enabled": True})
    assert (await world.get("control", "/api/faults")).json["faults"][-2]["hits"] == 0
