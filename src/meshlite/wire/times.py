"""Times as the services write them: RFC 3339, UTC."""

from datetime import UTC, datetime


def now() -> str:
    """The present moment, to the microsecond."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
