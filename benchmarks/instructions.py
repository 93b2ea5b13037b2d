"""Instructions that a request costs, as valgrind counts them: each run has the same, which no busy machine's time has.

    python benchmarks/instructions.py [--requests 800] [--before FOLDER]

Three requests: one service, a chain of two, and a refusal for overload (the only place of orders is taken). Each for
meshlite as shipped and without metrics and traces; with `--before`, for the `src` of another checkout too. What the
kernel does is not in it, and the garbage collector is off; eight connections are kept, and as many requests under way.
"""

import argparse
import http.client
import json
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness import CHAIN, ROOT, USER, Server, folder, meshlite, table

CONNECTIONS = 8
PATIENT = [
    f"{where}.{key}=60.0"
    for where in ("policy", "edges.orders.users", "edges.orders.inventory")
    for key in ("timeout", "attempt_timeout")
]
"""Under valgrind all is fifty times slower: no call is to fail for that."""
FULL = (
    "policy.admission.max_concurrent=1",
    "policy.admission.max_waiting=0",
    "faults.taken.kind=delay",
    "faults.taken.seconds=3600",
    "faults.taken.service=orders",
    "faults.taken.enabled=true",
)
ORDER = json.dumps({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]})
KINDS = {
    f"`GET {USER}`": ("users", "GET", USER, ()),
    f"`GET {CHAIN}`": ("orders", "GET", CHAIN, ()),
    "`POST /orders`, shed": ("orders", "POST", "/orders", FULL),
}
_START = """
import gc, runpy, sys
gc.disable()
gc.enable = gc.collect = lambda *_: 0
sys.path.insert(0, {src!r})
runpy.run_path({program!r}, run_name="__main__") if {program!r} else runpy.run_module("meshlite", run_name="__main__")
"""


def instructions(kind: str, src: Path, program: str, requests: int) -> float:
    """Thousands of instructions that one request of `kind` costs."""
    service, method, path, settings = KINDS[kind]
    with folder() as where:
        under = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={where}/counts", "--quiet")
        start = _START.format(src=str(src), program=program)
        with meshlite(where, *PATIENT, *settings, under=under, program=("-c", start)) as mesh:
            mesh.first_answer("users", "/healthz", patience=240)
            if settings:
                threading.Thread(target=_hang, args=(mesh,), daemon=True).start()
                time.sleep(3)
            connections = [http.client.HTTPConnection("127.0.0.1", mesh.ports[service]) for _ in range(CONNECTIONS)]
            _ask(connections, method, path, requests // 2)
            _control(mesh, "--zero")
            _ask(connections, method, path, requests)
            _control(mesh, "--dump")
            for connection in connections:
                connection.close()
            (dump,) = where.glob("counts.1")
            return int(re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE)[1]) / requests / 1000


def _hang(mesh: Server) -> None:
    with suppress(OSError):  # it is cut in the end
        mesh.ask("orders", "/orders")


def _ask(connections: Sequence[http.client.HTTPConnection], method: str, path: str, requests: int) -> None:
    body, headers = (ORDER, {"Content-Type": "application/json"}) if method == "POST" else (None, {})
    for _ in range(requests // len(connections)):
        for connection in connections:
            connection.request(method, path, body, headers)
        for connection in connections:
            response = connection.getresponse()
            response.read()
            if response.status != (503 if body else 200):
                raise RuntimeError(f"{method} {path} was answered {response.status}")


def _control(mesh: Server, what: str) -> None:
    subprocess.run(["callgrind_control", what, str(mesh.process.pid)], check=True, capture_output=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=800)
    options.add_argument("--before", type=Path, help="another checkout's folder `src`")
    given = options.parse_args()
    untold = str(ROOT / "benchmarks" / "untold.py")
    rows = []
    for kind in KINDS:
        shipped = instructions(kind, ROOT / "src", "", given.requests)
        without = instructions(kind, ROOT / "src", untold, given.requests)
        row = [kind, f"{shipped:,.0f}", f"{without:,.0f}", f"**{without / shipped:.3f}**"]
        if given.before:
            before = instructions(kind, given.before, "", given.requests)
            row += [f"{before:,.0f}", f"**{shipped / before:.3f}**"]
        rows.append(row)
    head = ["thousands of instructions", "as shipped", "without metrics and traces", "without / shipped"]
    if given.before:
        head += ["before", "shipped / before"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
