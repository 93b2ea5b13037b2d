"""What travels with a request: read with care, whatever was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlite import propagation

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_headers_there_is_an_id_a_trace_and_no_deadline() -> None:
    """A stranger's request gets an id of its own and, once it is asked for, one trace."""
    one, two = propagation.read({}, 0.0), propagation.read({}, 0.0)
    assert one.request_id != two.request_id
    assert (one.caller, one.attempt, one.deadline) == ("external", 1, None)
    assert one.trace() == one.trace() != two.trace()
    assert propagation.read({"Traceparent": one.trace()}, 0.0).trace() == one.trace()


@pytest.mark.parametrize(
    ("header", "value", "field", "read"),
    [
        ("X-Request-Id", "abc-1", "request_id", "abc-1"),
        ("Traceparent", TRACE, "traceparent", TRACE),
        ("Traceparent", TRACE.replace("00-", "ff-", 1), "traceparent", None),
        ("Traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "traceparent", None),
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
    for text in (inbound.request_id, inbound.caller, inbound.trace(), inbound.tracestate or "x"):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= 512
    assert inbound.attempt >= 0
    assert inbound.deadline is None or 0 <= inbound.deadline < 1e9
