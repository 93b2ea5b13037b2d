"""A control plane that is not one: a real socket, and answers as data."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POLICY: dict[str, Any] = {
    "timeout": 0.6,
    "attempt_timeout": 0.25,
    "retry": {"attempts": 2, "base_delay": 0.05, "max_delay": 0.25, "budget": 0.2},
    "bulkhead": {"max_concurrent": 100, "max_waiting": 0},
    "breaker": {
        "max_failures": 3,
        "reset_timeout": 5.0,
        "success_threshold": 2,
        "half_open_max_calls": 1,
        "per": "edge",
    },
    "admission": {"max_concurrent": 200, "max_waiting": 100},
}


def service(name: str, port: int, **more: Any) -> dict[str, Any]:
    base = {"name": name, "url": f"http://127.0.0.1:{port}", "state": "running", "reason": None, "in_flight": 0}
    return {**base, "rate": 0.0, "error_rate": 0.0, "p99_ms": None, **more}


def breaker(**more: Any) -> dict[str, Any]:
    base = {"key": "edge", "state": "closed", "reason": "new", "age": 12.0, "retry_after": None}
    return {**base, "consecutive_failures": 0, "opened": 0, "in_flight": 0, **more}


def edge(caller: str, callee: str, **more: Any) -> dict[str, Any]:
    base = {"caller": caller, "callee": callee, "policy": POLICY, "mode": "auto", "breakers": [breaker()]}
    counts = {"in_flight": 0, "waiting": 0, "amplification": 1.0, "rate": 0.0, "error_rate": 0.0, "refused_rate": 0.0}
    return {**base, **counts, "p99_ms": None, **more}


def fault(name: str, *, rule: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    base = {"name": name, "enabled": False, "source": "default", "matches": 0, "hits": 0, "active": 0}
    usual = {"service": "inventory", "kind": "delay", "seconds": 5.0, "phase": "request"}
    return {**base, "remaining": None, **(usual if rule is None else rule), **more}


OPEN = breaker(
    state="open",
    reason="3 consecutive failures, last: no answer after 0.25 s",
    age=0.8,
    retry_after=4.2,
    opened=1,
)


def mesh() -> dict[str, Any]:
    """A mesh with a slow inventory, as its control plane tells it."""
    return {
        "services": [
            service("users", 8080, rate=41.7, p99_ms=3.64, in_flight=2),
            service("orders", 8081, rate=12.3, error_rate=0.004, p99_ms=412.2, in_flight=5),
            service("inventory", 8082, rate=3.1, p99_ms=5004.0, in_flight=17, state="draining"),
        ],
        "edges": [
            edge("users", "orders", rate=3.0),
            edge("orders", "inventory", rate=12.3, error_rate=0.21, refused_rate=0.79, p99_ms=252, breakers=[OPEN]),
            edge("orders", "users", breakers=[]),
        ],
        "faults": [fault("slow-inventory", enabled=True, matches=17, hits=17, active=3, remaining=24.0)],
    }


class FakeControl:
    """Serves `answers` ((method, path) → (status, body), a GET list from `state`) on a port; `asked` is what came."""

    def __init__(self, port: int = 0) -> None:
        self.state = mesh()
        self.config = {"file": "config.toml", "needs_restart": [], "problems": [], "problems_since": None}
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/api/config"): (200, {"config": [], **self.config})
        }
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._port = port

    def __enter__(self) -> "FakeControl":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked.append((self.command, self.path, json.loads(body) if body else None))
                fake.headers.append(dict(self.headers))
                key = self.path.rpartition("/")[2]
                default = (200, {key: fake.state[key]}) if key in fake.state else (404, problem(404, "nothing here"))
                status, answer = fake.answers.get((self.command, self.path), default)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def at(self) -> list[str]:
        """The options that name it."""
        return ["--set", f"control.port={self.port}"]


def problem(status: int, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": "urn:meshlite:problem:x", "title": "A title", "status": status, "detail": detail, **more}
