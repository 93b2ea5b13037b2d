"""`python -m meshlite`, that tells on a signal what nobody can see from outside: its tasks, its timers, its objects.

Each SIGUSR1 appends a line of JSON to the file that MESHLITE_SOAK_TELLS names; SIGUSR2 too, when garbage is collected.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter

import uvloop

from meshlite.cli import main


def tell(number: int, _: object) -> None:
    """Runs on the loop's thread, between two of its steps."""
    if number == signal.SIGUSR2:
        gc.collect()
    things = gc.get_objects()
    timers = sum(type(thing) is uvloop.loop.UVTimer for thing in things)
    tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    told = {"tasks": tasks, "timers": timers, "objects": len(things)}
    if number == signal.SIGUSR2:
        told["most"] = Counter(type(thing).__qualname__ for thing in things).most_common(10)
    with open(os.environ["MESHLITE_SOAK_TELLS"], "a") as file:  # noqa: PTH123  one system call less than a Path
        file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    signal.signal(signal.SIGUSR2, tell)
    sys.exit(main())
