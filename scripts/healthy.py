"""The containers' health checks: status 0 if the service that is named is alive and does its work."""

from __future__ import annotations

import json
import sys
from urllib.request import urlopen

SECONDS = 8


def main(service: str) -> int:
    """Ask the scheduler itself, or the API server, which also knows about the others' heartbeats."""
    url = "http://localhost:8974/health" if service == "scheduler" else "http://api-server:8080/api/v2/monitor/health"
    with urlopen(url, timeout=SECONDS) as answer:  # noqa: S310
        health = json.load(answer)
    component = "metadatabase" if service == "api_server" else service
    return 0 if health[component]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
