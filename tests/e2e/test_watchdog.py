"""A real scheduler runs the watchdog at its deadline, and a chat hears of the night in which no run was started."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.workspace import Workspace
from tests.helpers import HANG_SECONDS, logged_in, served

pytestmark = pytest.mark.slow

RUNS = "/api/v2/dags/mnist_watchdog/dagRuns"


class Chat(BaseHTTPRequestHandler):
    """A webhook that accepts every message."""

    def do_POST(self) -> None:
        server: Any = self.server
        server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_night_without_a_run_is_told_at_the_deadline(tmp_path: Path) -> None:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.told = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    (tmp_path / "home").mkdir()
    home = Workspace(tmp_path / "home")
    # Airflow is not up when the run is due, nor in the tenth of a day after it, in which it would make up for it.
    now = datetime.now(timezone.utc)
    due, deadline = now - timedelta(hours=12), now + timedelta(minutes=2)
    settings = {
        "MNIST_SCHEDULE": f"{due.minute} {due.hour} * * *",
        "MNIST_DEADLINE": f"{deadline:%H:%M}",
        "MNIST_NOTIFY": json.dumps([{"notifier": "mnist_notify.WebhookNotifier", "url": url}]),
    }
    try:
        with served(home, **settings) as address, logged_in(address, home) as client:
            hang = time.monotonic() + HANG_SECONDS
            while not (runs := client.get(RUNS).raise_for_status().json()["dag_runs"]) or runs[0]["state"] != "success":
                assert time.monotonic() < hang, runs
                time.sleep(0.5)
    finally:
        server.shutdown()
        server.server_close()

    (text,) = server.told
    assert text.startswith(
        f"mnist_training: no run has ended by {deadline:%H:%M} UTC\nNo run has been started since {due:%H:%M} UTC.\n"
    )
    assert "\nThere is no champion.\nrun: scheduled__" in text
    assert (len(runs), runs[0]["run_type"]) == (1, "scheduled")
