"""What the benchmarks share: start and stop the two servers on free ports, await a first answer, run wrk, take medians.

Needs Linux (it reads /proc), `wrk`, and the Python that meshlite's dependencies are installed in.
"""

import http.client
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

ROOT = Path(__file__).parents[1]
USER = "/users/1"
CHAIN = "/orders?user_id=1"
_CALLEES = ("users", "orders", "inventory")


@dataclass(slots=True)
class Server:
    """A running server: its process, its ports by name, and the folder that it writes into."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    folder: Path
    log: Path
    spawned: float

    def url(self, service: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def ask(self, service: str, path: str, method: str = "GET", body: str | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own: the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[service], timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def first_answer(self, service: str = "orders", path: str = CHAIN, patience: float = 20.0) -> float:
        """Seconds from the spawn to the first 200. Raises RuntimeError with the log's end if there is none."""
        while time.perf_counter() < self.spawned + patience and self.process.poll() is None:
            try:
                if self.ask(service, path)[0] == 200:
                    return time.perf_counter() - self.spawned
            except OSError:
                pass
            time.sleep(0.002)
        raise RuntimeError(f"no answer from {self.process.args!r}: {self.log.read_text()[-2000:]}")

    def resident(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: of the `loop`'s thread, and of all the `others` together."""
        spent = {"loop": 0.0, "others": 0.0}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            name = "loop" if int(task.name) == self.process.pid else "others"
            spent[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
        return spent


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one server's files, gone afterwards. MESHLITE_BENCH_DIR says where; the default is the system's."""
    with tempfile.TemporaryDirectory(prefix="meshlite-bench-", dir=os.environ.get("MESHLITE_BENCH_DIR")) as name:
        yield Path(name)


@contextmanager
def meshlite(
    where: Path,
    *settings: str,
    under: Sequence[str] = (),
    program: Sequence[str] = ("-m", "meshlite"),
    ports: Sequence[int] = (),
) -> Iterator[Server]:
    """meshlite as shipped, its logs going to a file; it reads `where`/config.toml if it is there.

    `settings` are KEY=VALUE; `under` is a command to run it with, which must leave it the process that was spawned;
    `program` is what Python runs, where it is not meshlite as shipped; `ports` are the services' and the control
    plane's, free ones if nothing is said.
    """
    at = dict(zip((*_CALLEES, "control"), ports or free_ports(4), strict=True))
    keys = [f"services.{name}.port={at[name]}" for name in _CALLEES]
    keys += [f"control.port={at['control']}", f"mesh.data={where / 'data'}", *settings]
    arguments = [part for key in keys for part in ("--set", key)]
    with (where / "log.json").open("ab") as log:
        command = [*under, sys.executable, *program, *arguments, "--log-format", "json"]
        yield from _running(command, at, where, log)


@contextmanager
def bare(where: Path) -> Iterator[Server]:
    """The rival, see bare.py."""
    ports = dict(zip(_CALLEES, free_ports(3), strict=True))
    with (where / "log.txt").open("ab") as log:
        command = [sys.executable, str(ROOT / "benchmarks" / "bare.py"), *map(str, ports.values())]
        yield from _running(command, ports, where, log)


def _running(command: list[str], ports: dict[str, int], where: Path, log: BinaryIO) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    spawned = time.perf_counter()
    process = subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield Server(process, ports, where, Path(log.name), spawned)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Load(NamedTuple):
    """What wrk saw: answers a second that were 2xx, and how many were not."""

    a_second: float
    refused: int


def on_cpu(number: int) -> tuple[str, ...]:
    """A command that keeps what it runs on one CPU: then a server and its client do not push each other about."""
    return ("taskset", "-c", str(number))


def wrk(url: str, connections: int, seconds: int, script: Path | None = None, under: Sequence[str] = ()) -> Load:
    """Ask `url` for so long on so many connections. Raises RuntimeError if a connection broke."""
    more = ["-s", str(script)] if script else []
    command = [*under, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *more, url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Socket errors" in text:
        raise RuntimeError(text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    lost = int(refused[1]) if refused else 0
    answered = int(re.search(r"(\d+) requests in", text)[1])
    return Load(float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]) * (1 - lost / answered), lost)


class Burst:
    """Many connections to one server, each of which asks for `url` again as soon as it is answered.

    For answers that are all of one length. A burst is short, so that two servers can be asked in turn many times, each
    pair of times at one pace of the machine; who asks costs a tenth of who answers.
    """

    def __init__(self, url: str, connections: int) -> None:
        host, port, path = re.fullmatch(r"http://([^:/]+):(\d+)(/.*)", url).groups()
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        self._sockets = [socket.create_connection((host, int(port)), timeout=10) for _ in range(connections)]
        self._length = len(self._first(self._sockets[0]))
        self._poll = select.epoll()
        self._by_number = {each.fileno(): each for each in self._sockets}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def _first(self, connection: socket.socket) -> bytes:
        connection.sendall(self._request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65_536)
        head = answer.partition(b"\r\n\r\n")[0]
        whole = len(head) + 4 + int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        while len(answer) < whole:
            answer += connection.recv(65_536)
        return answer

    def seconds(self, times: int) -> float:
        """How long it takes until each connection has been answered so many times. Raises RuntimeError for no 200."""
        left = dict.fromkeys(self._by_number, times)
        came = dict.fromkeys(left, 0)
        began = time.perf_counter()
        for connection in self._sockets:
            connection.sendall(self._request)
        while left:
            for number, _ in self._poll.poll():
                piece = self._by_number[number].recv(65_536)
                if not (came[number] or piece.startswith(b"HTTP/1.1 200")):
                    raise RuntimeError(piece[:200].decode(errors="replace") or "the connection was closed")
                came[number] += len(piece)
                if came[number] < self._length:
                    continue
                came[number] = 0
                left[number] -= 1
                if left[number]:
                    self._by_number[number].sendall(self._request)
                else:
                    del left[number]
        return time.perf_counter() - began

    def close(self) -> None:
        self._poll.close()
        for connection in self._sockets:
            connection.close()


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are at or below; not a number where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the least and the greatest of all rounds."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
