"""Sinks for facts: logs, metrics."""
