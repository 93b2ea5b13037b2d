"""The settings of a circuit breaker, and the checks that each of them must pass."""

import math
from functools import partial
from types import EllipsisType
from typing import NamedTuple, TypeGuard

# What marks the code of `async def`, without a yield and with one (inspect knows, but costs more than all of this).
_ASYNC = 0x80 | 0x200


class Settings(NamedTuple):
    """Checked settings; the names are those of `CircuitBreaker`'s keyword arguments, where they are explained."""

    max_failures: int | None
    window: str | None
    window_size: float | None
    failure_rate: float | None
    minimum_calls: int
    slow_call_duration: float | None
    slow_call_rate: float | None
    reset_timeout: float
    reset_multiplier: float
    reset_max: float
    reset_jitter: float
    retry_after_max: float
    half_open_max_calls: int
    success_threshold: int
    probe_timeout: float
    max_ignored_probes: int


def checked(
    *,
    max_failures: int | EllipsisType | None,
    window: str | None,
    window_size: float | None,
    failure_rate: float | None,
    minimum_calls: int | None,
    slow_call_duration: float | None,
    slow_call_rate: float | None,
    reset_timeout: float,
    reset_multiplier: float,
    reset_max: float | None,
    reset_jitter: float,
    retry_after_max: float,
    half_open_max_calls: int,
    success_threshold: int,
    probe_timeout: float | None,
    max_ignored_probes: int,
) -> Settings:
    """The settings with their defaults filled in. Raise ValueError for the first that cannot be meant."""
    if isinstance(max_failures, EllipsisType):  # not given
        max_failures = 5 if window is None else None
    elif max_failures is False:
        max_failures = None
    if max_failures is not None:
        _count("max_failures", max_failures)
    minimum_calls = _check_window(
        window=window,
        window_size=window_size,
        failure_rate=failure_rate,
        minimum_calls=minimum_calls,
        slow_call_duration=slow_call_duration,
        slow_call_rate=slow_call_rate,
    )
    _seconds("reset_timeout", reset_timeout)
    if not is_number(reset_multiplier) or reset_multiplier < 1:
        raise ValueError(f"reset_multiplier must be a number of at least 1, not {reset_multiplier!r}")
    if reset_max is None:
        reset_max = max(600.0, reset_timeout)
    elif reset_multiplier == 1:
        raise ValueError("reset_max has no meaning without a reset_multiplier above 1")
    elif not is_number(reset_max) or reset_max < reset_timeout:
        raise ValueError(f"reset_max must be seconds, and not below reset_timeout, not {reset_max!r}")
    if not is_number(reset_jitter) or not 0 <= reset_jitter <= 1:
        raise ValueError(f"reset_jitter must be a fraction from 0 to 1, not {reset_jitter!r}")
    if not is_number(retry_after_max) or retry_after_max < 0:
        raise ValueError(f"retry_after_max must be seconds, or 0 to take no one's word, not {retry_after_max!r}")
    _count("half_open_max_calls", half_open_max_calls)
    _count("success_threshold", success_threshold)
    _count("max_ignored_probes", max_ignored_probes)
    if probe_timeout is None:
        probe_timeout = max(60.0, reset_timeout)
    _seconds("probe_timeout", probe_timeout)
    return Settings(
        max_failures,
        window,
        window_size,
        failure_rate,
        minimum_calls,
        slow_call_duration,
        slow_call_rate,
        reset_timeout,
        reset_multiplier,
        reset_max,
        reset_jitter,
        retry_after_max,
        half_open_max_calls,
        success_threshold,
        probe_timeout,
        max_ignored_probes,
    )


def _check_window(
    *,
    window: str | None,
    window_size: float | None,
    failure_rate: float | None,
    minimum_calls: int | None,
    slow_call_duration: float | None,
    slow_call_rate: float | None,
) -> int:
    """Check what has to do with the window; return the minimum number of calls."""
    if window is None:
        given = {
            "window_size": window_size,
            "failure_rate": failure_rate,
            "minimum_calls": minimum_calls,
            "slow_call_duration": slow_call_duration,
            "slow_call_rate": slow_call_rate,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(f'{name} needs a window: window="count" or window="time"')
        return 0
    if window == "count":
        _count("window_size", window_size, "calls")
    elif window == "time":
        _seconds("window_size", window_size)
    else:
        raise ValueError(f'window must be "count", "time" or None, not {window!r}')
    if (slow_call_duration is None) != (slow_call_rate is None):
        raise ValueError("slow_call_duration and slow_call_rate go together: give both or neither")
    if failure_rate is None and slow_call_rate is None:
        raise ValueError("a window needs a failure_rate, or a slow_call_duration and a slow_call_rate")
    _rate("failure_rate", failure_rate)
    _rate("slow_call_rate", slow_call_rate)
    if slow_call_duration is not None:
        _seconds("slow_call_duration", slow_call_duration)
    assert window_size is not None  # checked above
    if minimum_calls is None:
        return min(10, int(window_size)) if window == "count" else 10
    _count("minimum_calls", minimum_calls)
    if window == "count" and minimum_calls > window_size:
        raise ValueError(f"minimum_calls is {minimum_calls}, but the window holds only {window_size} calls")
    return minimum_calls


def function(name: str, value: object) -> None:
    """Raise ValueError unless `value` can be called, and gives its answer at once."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, not {value!r}")
    if _is_async(value):
        raise ValueError(f"{name} must be a plain function: nobody would await what {value!r} gives")


def _is_async(fn: object) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    codes = (getattr(each, "__code__", None) for each in (fn, type(fn).__call__))
    return any(code is not None and code.co_flags & _ASYNC for code in codes)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(name: str, value: object, unit: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1{unit and f' ({unit})'}, not {value!r}")


def _seconds(name: str, value: object) -> None:
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be seconds, finite and above 0, not {value!r}")


def _rate(name: str, value: float | None) -> None:
    if value is not None and (not is_number(value) or not 0 < value <= 1):
        raise ValueError(f"{name} must be a fraction above 0 and up to 1, not {value!r}")
