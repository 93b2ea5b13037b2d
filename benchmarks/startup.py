"""How soon meshlite answers, and how much memory it takes, over the same for bare aiohttp.

Claims: from the spawn to the first 200 of `GET /orders?user_id=1`, through the chain, at most 2.0 times as
long as the bare process of bare.py; resident memory at most 1.5 times.

    python benchmarks/startup.py [--rounds 12]

Starts them in turn, one at a time: bare, meshlite with a new data folder (it makes three databases and syncs them), and
meshlite with the data of the start before. Asks every 2 ms until there is an answer. Memory is VmRSS, after that answer
and after two seconds of load at 32 connections. Prints a markdown table.
"""

import argparse
from contextlib import AbstractContextManager

from harness import CHAIN, Server, bare, folder, median, meshlite, spread, table, wrk

HEAD = ["spawn to the first 200, and memory", "meshlite", "bare", "ratio (least to greatest)", "wanted"]


def _once(starting: AbstractContextManager[Server]) -> tuple[float, float, float]:
    """Seconds to the first answer; MB after it, and after some load."""
    with starting as server:
        first, resident = server.first_answer(), server.resident()
        wrk(server.url("orders", CHAIN), 32, 2)
        return first, resident, server.resident()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=12)
    rounds = options.parse_args().rounds
    plain, new, again = [], [], []
    for number in range(rounds + 1):
        with folder() as theirs, folder() as ours:
            results = _once(bare(theirs)), _once(meshlite(ours)), _once(meshlite(ours))
        if number:  # the first round warms the disk's cache and compiles
            for kept, result in zip((plain, new, again), results, strict=True):
                kept.append(result)
    rows = []
    for name, ours, column, unit, scale, wanted in (
        ("first answer, new data folder", new, 0, "ms", 1000, "≤ 2.0"),
        ("first answer, data there", again, 0, "ms", 1000, "≤ 2.0"),
        ("memory after it", again, 1, "MB", 1, "≤ 1.5"),
        ("memory after 2 s of load", again, 2, "MB", 1, "≤ 1.5"),
    ):
        mine, its = ([result[column] * scale for result in results] for results in (ours, plain))
        ratio = spread([left / right for left, right in zip(mine, its, strict=True)])
        rows.append([name, f"{median(mine):.0f} {unit}", f"{median(its):.0f} {unit}", f"**{ratio}**", wanted])
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
