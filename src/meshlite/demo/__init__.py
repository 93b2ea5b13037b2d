"""Stories of partial failure, each played twice, without a policy and with it: `python -m meshlite demo`."""

SCENARIOS = ("slow", "dead", "lost-answer", "retry-storm", "overload")
"""The stories that come along; each is a file here, to be read and copied."""
