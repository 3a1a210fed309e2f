"""A stand-in for TensorFlow Serving, which cannot be had here: the parts of it that the model directory relies on.

    python -m tests.servers.serving MODELS PORT [HOST]

Like `tensorflow_model_server --rest_api_port=PORT --model_name=mnist --model_base_path=MODELS` it

- takes the children whose names are integers for versions, and looks for the largest again and again,
- loads the SavedModel's `serving_default` and answers `/v1/models/mnist[/versions/N][:predict]` in the row format of
  the REST API (https://www.tensorflow.org/tfx/serving/api_rest),
- loads the new version before it lets go of the old one, which answers the requests that it has begun.

A version that cannot be loaded is tried again, and written to standard error. So is each swap, to standard output.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

POLL_SECONDS = 0.05  # TensorFlow Serving's default is a second
NAME = "/v1/models/mnist"


@dataclass(frozen=True)
class Servable:
    """A loaded version."""

    number: int
    model: Any

    def predict(self, instances: Any) -> list[list[float]]:
        """Probabilities for a list of images. The argument's only input is the row format's."""
        signature = self.model.signatures["serving_default"]
        ((name, spec),) = signature.structured_input_signature[1].items()
        (outputs,) = signature(**{name: tf.constant(instances, spec.dtype)}).values()
        return list(outputs.numpy().tolist())


class Server(http.server.ThreadingHTTPServer):
    """Answers with the version that `watch` has loaded last."""

    daemon_threads = True
    request_queue_size = 128
    servable: Servable | None = None

    def watch(self, models: Path) -> None:
        """Load each new version, for ever."""
        while True:
            children = models.iterdir() if models.is_dir() else ()
            numbers = [int(path.name) for path in children if path.name.isdecimal()]
            newest = max(numbers, default=None)
            if newest is not None and (self.servable is None or self.servable.number != newest):
                try:
                    self.servable = Servable(newest, tf.saved_model.load(models / str(newest)))
                    print(f"serving {newest}", flush=True)
                except Exception as error:
                    print(f"cannot load {newest}: {error}", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)


class Handler(http.server.BaseHTTPRequestHandler):
    """The REST API."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        servable = self.server.servable
        if self.path != NAME or servable is None:
            return self._send(404, {"error": "Could not find any versions of model"})
        state = {"version": str(servable.number), "state": "AVAILABLE", "status": {"error_code": "OK"}}
        return self._send(200, {"model_version_status": [state]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        servable = self.server.servable
        asked, _, verb = self.path.removeprefix(NAME).rpartition(":")
        wrong_version = servable is None or asked not in ("", f"/versions/{servable.number}")
        if not self.path.startswith(NAME) or verb != "predict" or wrong_version or servable is None:
            return self._send(404, {"error": f"Servable not found for request: {self.path}"})
        try:
            return self._send(200, {"predictions": servable.predict(json.loads(body)["instances"])})
        except Exception as error:
            return self._send(400, {"error": str(error)})

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def main(models: Path, port: int, host: str = "127.0.0.1") -> None:
    """Serve until the process is ended."""
    server = Server((host, port), Handler)
    threading.Thread(target=server.watch, args=(models,), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
