"""What travels with a request: read with care, whatever was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlite import propagation
from meshlite.spans import parse_traceparent

IDS = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACE = "00-" + "-".join(IDS) + "-01"


def test_without_headers_there_is_an_id_a_trace_and_no_deadline() -> None:
    """A stranger's request gets an id of its own, and begins a trace that is sampled."""
    one, two = propagation.read({}, 0.0), propagation.read({}, 0.0)
    assert len({one.request_id, two.request_id, one.span_id, two.span_id, one.trace_id[:16], two.trace_id[16:]}) == 6
    assert (len(one.trace_id), len(one.span_id), one.parent_id, one.sampled) == (32, 16, None, True)
    assert (one.caller, one.attempt, one.deadline) == ("external", 1, None)


@pytest.mark.parametrize(
    ("traceparent", "read"),
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
def test_a_traceparent_is_read_as_w3c_says(traceparent: str, read: object) -> None:
    """Version 00 to the letter, of later ones the first four fields, ff never; the last flag is that of sampling."""
    assert parse_traceparent(traceparent) == read
    inbound = propagation.read({"Traceparent": traceparent, "Tracestate": "a=b"}, 0.0)
    if read is None:
        assert (inbound.parent_id, inbound.sampled, inbound.tracestate) == (None, True, None)
        assert inbound.trace_id != IDS[0]
    else:
        assert (inbound.trace_id, inbound.parent_id, inbound.sampled) == read
        assert inbound.tracestate == "a=b"
        assert inbound.span_id != IDS[1]


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
    ("header", "value", "field", "read"),
    [
        ("X-Request-Id", "abc-1", "request_id", "abc-1"),
        ("Traceparent", TRACE, "trace_id", IDS[0]),
        ("Traceparent", TRACE, "parent_id", IDS[1]),
        ("Traceparent", TRACE.replace("00-", "ff-", 1), "parent_id", None),
        ("X-Envoy-Downstream-Service-Cluster", "orders", "caller", "orders"),
        ("X-Envoy-Downstream-Service-Cluster", "Orders; drop", "caller", "external"),
        ("X-Envoy-Attempt-Count", "3", "attempt", 3),
        ("X-Envoy-Attempt-Count", "-3", "attempt", 1),
        ("X-Envoy-Attempt-Count", "³", "attempt", 1),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "250", "deadline", 100.25),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "1e3", "deadline", None),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "9" * 30, "deadline", None),
    ],
)
def test_what_is_malformed_counts_as_absent(header: str, value: str, field: str, read: object) -> None:
    """Each header is taken if it is what it should be, else left."""
    assert getattr(propagation.read({header: value}, 100.0), field) == read


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
    inbound = propagation.read(headers, 0.0)
    for text in (
        inbound.request_id,
        inbound.caller,
        inbound.trace_id,
        inbound.parent_id or "x",
        inbound.tracestate or "x",
    ):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= 512
    assert inbound.attempt >= 0
    assert inbound.deadline is None or 0 <= inbound.deadline < 1e9
