"""Breakers by key (a name, an origin, a tenant), no more of them than a bound, as long as that loses nothing.

Only a breaker that a new one would equal is ever evicted: closed, with no call under way and nothing held against its
callee. With it go its totals, a window's successes, and listeners that came by `subscribe`: give those in the settings.
Where there is none, the registry grows beyond its bound and says so once. Ask it for the breaker at each call
rather than keep one: a breaker that was kept and evicted would no longer be the one that others use.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from meshlite.resilience.breaker import CircuitBreaker
from meshlite.resilience.settings import function

_LOOKED_AT = 16
"""Breakers that are looked at for one that can be spared, so that a new key costs the same however many there are."""


class BreakerRegistry:
    """`BreakerRegistry(max_failures=3)["payments"]`: every breaker with these settings, named by its key.

    Or with `make`, a function of the key that returns a breaker; not both (ValueError). `max_size`: the bound.
    """

    def __init__(
        self,
        make: Callable[[str], CircuitBreaker] | None = None,
        *,
        max_size: int = 1024,
        **settings: Any,  # those of CircuitBreaker
    ) -> None:
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size must be a whole number of at least 1, not {max_size!r}")
        if "name" in settings:
            raise ValueError("name: every breaker has that of its key")
        if make is None:
            CircuitBreaker(**settings)  # wrong settings are found now, not at the first call
        elif settings:
            raise ValueError(f"make builds the breakers: {', '.join(settings)} would have no effect")
        else:
            function("make", make)
        self._make = make or (lambda key: CircuitBreaker(str(key), **settings))
        self._max_size = max_size
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._grown = False

    def __getitem__(self, key: str) -> CircuitBreaker:
        """The breaker of `key`, made if there is none."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return self._add(key)
        self._breakers.move_to_end(key)
        return breaker

    def _add(self, key: str) -> CircuitBreaker:
        breaker = self._make(key)
        if len(self._breakers) >= self._max_size:
            self._evict(len(self._breakers) - self._max_size + 1)
        breaker = self._breakers.setdefault(key, breaker)
        if len(self._breakers) > self._max_size and not self._grown:
            self._grown = True
            logging.getLogger("meshlite.breaker").warning(
                "breaker.registry_grown beyond %d: every breaker is in use or has something to remember", self._max_size
            )
        return breaker

    def _evict(self, number: int) -> None:
        """Evict the `number` longest unused that can be spared, as far as there are so many."""
        for key, breaker in list(islice(self._breakers.items(), max(number, _LOOKED_AT))):
            pristine = breaker.pristine  # looking may move it, and its listeners may come back here
            if self._breakers.get(key) is not breaker:
                continue
            if not pristine:
                self._breakers.move_to_end(key)  # the next look begins behind it
                continue
            del self._breakers[key]
            number -= 1
            if not number:
                break

    def get(self, key: str) -> CircuitBreaker | None:
        """The breaker of `key`, None if there is none; neither makes it nor counts as use."""
        return self._breakers.get(key)

    def items(self) -> list[tuple[str, CircuitBreaker]]:
        """All keys and their breakers, the longest unused first."""
        return list(self._breakers.items())

    def __iter__(self) -> Iterator[CircuitBreaker]:
        return iter(list(self._breakers.values()))

    def __len__(self) -> int:
        return len(self._breakers)

    def __contains__(self, key: object) -> bool:
        return key in self._breakers

    def __repr__(self) -> str:
        first = ", ".join(map(str, islice(self._breakers, 5)))
        return f"<BreakerRegistry of {len(self)}: {first}{', …' * (len(self) > 5)}>"
