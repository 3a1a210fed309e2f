"""A receiver of OpenTelemetry metrics over HTTP, as a collector is: it decodes what arrives."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

# The name of a metric and its attributes, such as (("model", "candidate"),).
Key = tuple[str, tuple[tuple[str, str], ...]]


class Receiver:
    """The last value of each gauge that has arrived, and the names of all metrics and instances."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.gauges: dict[Key, float] = {}
        self.names: set[str] = set()
        self.instances: set[str] = set()

    def take(self, body: bytes) -> None:
        """Decode an export."""
        request = ExportMetricsServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_metrics:
            attributes_of_resource = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.instances.add(attributes_of_resource["service.instance.id"])
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.names.add(metric.name)
                    for point in metric.gauge.data_points:
                        attributes = sorted((each.key, each.value.string_value) for each in point.attributes)
                        value = point.as_double if point.WhichOneof("value") == "as_double" else point.as_int
                        self.gauges[metric.name, tuple(attributes)] = float(value)

    def ours(self) -> dict[Key, float]:
        """The gauges of the job, without Airflow's own; their names without the prefix."""
        prefix = "airflow.mnist."
        return {
            (name.removeprefix(prefix), attributes): value
            for (name, attributes), value in self.gauges.items()
            if name.startswith(prefix)
        }


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive metrics on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                receiver.take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
