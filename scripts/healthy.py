"""The containers' health check: status 0 if the named service is healthy."""

from __future__ import annotations

import json
import sys
from urllib.request import urlopen

SECONDS = 8


def main(service: str) -> int:
    """Ask the scheduler itself, which answers 503 if it is not healthy, or the API server about any other service."""
    if service == "scheduler":
        with urlopen("http://localhost:8974/health", timeout=SECONDS):
            return 0
    with urlopen("http://api-server:8080/api/v2/monitor/health", timeout=SECONDS) as answer:
        return 0 if json.load(answer)[service]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
