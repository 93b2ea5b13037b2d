"""What travels with a request: read with care, whatever was sent."""

from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from meshlite import propagation
from meshlite.spans import parse_traceparent

IDS = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACE = "00-" + "-".join(IDS) + "-01"


def read(*headers: tuple[str, str], now: float = 0.0) -> propagation.Inbound:
    return propagation.read(CIMultiDict(headers), now)


def test_without_headers_there_is_an_id_a_trace_and_no_deadline() -> None:
    """A stranger's request gets an id of its own, and begins a trace that is sampled."""
    one, two = read(), read()
    ids = {one.span.request_id, two.span.request_id, one.span.span_id, two.span.span_id}
    assert len(ids | {one.trace_id[:16], two.trace_id[16:]}) == 6
    assert (len(one.trace_id), len(one.span.span_id), one.span.parent_id, one.sampled) == (32, 16, None, True)
    assert (one.span.caller, one.span.attempt, one.deadline) == ("external", 1, None)


@pytest.mark.parametrize(
    ("traceparent", "ids"),
    [
        (TRACE, (*IDS, True)),
        (TRACE[:-2] + "00", (*IDS, False)),
        (TRACE[:-2] + "03", (*IDS, True)),  # bits that this version does not know
        (TRACE[:-2] + "fe", (*IDS, False)),
        (TRACE.replace("00-", "cc-", 1), (*IDS, True)),  # a version to come
        (TRACE.replace("00-", "cc-", 1) + "-what-the-future-will-be-like", (*IDS, True)),
        (TRACE.replace("00-", "cc-", 1) + ".what-the-future-will-not-be-like", None),
        (TRACE + "-", None),
        (TRACE + "-what", None),
        (TRACE.replace("00-", "ff-", 1), None),
        (TRACE.replace("0af7", "0AF7"), None),
        (TRACE.replace(IDS[0], "0" * 32), None),
        (TRACE.replace(IDS[1], "0" * 16), None),
        (TRACE[:-1], None),
        (TRACE.replace("-", "_"), None),
        (TRACE + "\n", None),
        (" " + TRACE, None),
        (TRACE.replace("7", "\u0667"), None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(traceparent: str, ids: object) -> None:
    """Version 00 to the letter, of later ones the first four fields, ff never; the last flag is that of sampling."""
    assert parse_traceparent(traceparent) == ids
    inbound = read(("Traceparent", traceparent), ("Tracestate", "a=b"))
    if ids is None:
        assert (inbound.span.parent_id, inbound.sampled, inbound.tracestate) == (None, True, None)
        assert inbound.trace_id != IDS[0]
    else:
        assert (inbound.trace_id, inbound.span.parent_id, inbound.sampled) == ids
        assert inbound.tracestate == "a=b"
        assert inbound.span.span_id != IDS[1]


_HEX = "0123456789abcdef"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_every_traceparent_of_this_version_is_read(trace: int, span: int, flags: int) -> None:
    """Whatever the ids and the flags are."""
    text = f"00-{trace:032x}-{span:016x}-{flags:02x}"
    assert parse_traceparent(text) == (f"{trace:032x}", f"{span:016x}", flags % 2 == 1)


@given(
    st.one_of(
        st.text(max_size=70),
        st.text(_HEX + "-", min_size=50, max_size=60),
        st.tuples(st.integers(0, 54), st.characters()).map(lambda at: TRACE[: at[0]] + at[1] + TRACE[at[0] + 1 :]),
    )
)
def test_of_any_other_text_nothing_is_believed(text: str) -> None:
    """What is read has the form that is sent, not all zero; what is not has left that form."""
    found = parse_traceparent(text)
    plain = len(text) >= 55 and all(text[at] == "-" for at in (2, 35, 52))
    digits = plain and not set(text[:2] + text[3:35] + text[36:52] + text[53:55]) - set(_HEX)
    zero = set(text[3:35]) == {"0"} or set(text[36:52]) == {"0"}
    meant = digits and not zero and text[:2] != "ff" and (len(text) == 55 or (text[:2] != "00" and text[55] == "-"))
    if found is not None:
        assert meant
        assert found == (text[3:35], text[36:52], int(text[53:55], 16) % 2 == 1)
    elif meant:
        assert not text[55:].isascii() or not text[55:].isprintable() or len(text) > 255


@pytest.mark.parametrize(
    ("header", "value", "field", "found"),
    [
        ("X-Request-Id", "abc-1", "span.request_id", "abc-1"),
        ("Traceparent", TRACE, "trace_id", IDS[0]),
        ("Traceparent", TRACE, "span.parent_id", IDS[1]),
        ("Traceparent", TRACE.replace("00-", "ff-", 1), "span.parent_id", None),
        ("X-Envoy-Downstream-Service-Cluster", "orders", "span.caller", "orders"),
        ("X-Envoy-Downstream-Service-Cluster", "Orders; drop", "span.caller", "external"),
        ("X-Envoy-Attempt-Count", "3", "span.attempt", 3),
        ("X-Envoy-Attempt-Count", "-3", "span.attempt", 1),
        ("X-Envoy-Attempt-Count", "³", "span.attempt", 1),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "250", "deadline", 100.25),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "1e3", "deadline", None),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "9" * 30, "deadline", None),
    ],
)
def test_what_is_malformed_counts_as_absent(header: str, value: str, field: str, found: object) -> None:
    """Each header is taken if it is what it should be, else left."""
    assert attrgetter(field)(read((header, value), now=100.0)) == found


@pytest.mark.parametrize(
    ("lines", "state"),
    {
        "one": (["a=1"], "a=1"),
        "several headers are one list": (["foo=1", "bar=2,baz=3"], "foo=1,bar=2,baz=3"),
        "white space around members": (["foo=1 \t,\t bar=2"], "foo=1,bar=2"),
        "empty members are none": (["foo=1,,", ""], "foo=1"),
        "a tenant": (["0t61rq@rojo=00f067aa 0ba902b7"], "0t61rq@rojo=00f067aa 0ba902b7"),
        "nothing": (["", " "], None),
        "no key": (["foo=1,=2"], None),
        "no value": (["foo="], None),
        "two signs": (["foo=1=2"], None),
        "an upper key": (["Foo=1"], None),
        "no list": (["=,=;;"], None),
        "too many": (["a=1"] * 33, None),
        "too long": (["a=" + "x" * 250, "b=" + "x" * 250, "c=" + "x" * 10], None),
    }.values(),
)
def test_tracestate_is_combined_as_w3c_says(lines: list[str], state: str | None) -> None:
    """All its headers go on as one list; where a member of it is malformed, none goes on."""
    inbound = read(("Traceparent", TRACE), *(("Tracestate", line) for line in lines))
    assert (inbound.tracestate, inbound.trace_id) == (state, IDS[0])


def test_of_two_traceparents_none_is_believed() -> None:
    """Whose trace it is nobody can tell."""
    inbound = read(("Traceparent", TRACE), ("Traceparent", TRACE))
    assert (inbound.span.parent_id, inbound.trace_id == IDS[0]) == (None, False)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                propagation.REQUEST_ID,
                propagation.TRACEPARENT,
                propagation.TRACESTATE,
                propagation.CALLER,
                propagation.ATTEMPT,
                propagation.TIME_LEFT_MS,
            ]
        ),
        st.text(),
    )
)
def test_whatever_comes_in_what_goes_on_is_printable_ascii_on_one_line(headers: dict[str, str]) -> None:
    """No header can break a log line or another header."""
    inbound = read(*headers.items())
    for text in (
        inbound.span.request_id,
        inbound.span.caller,
        inbound.trace_id,
        inbound.span.parent_id or "x",
        inbound.tracestate or "x",
    ):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= 512
    assert inbound.span.attempt >= 0
    assert inbound.deadline is None or 0 <= inbound.deadline < 1e9
