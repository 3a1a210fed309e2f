"""`make env`: write `.env`, the secrets and settings of docker-compose.yaml, readable by its owner only.

Needs only Python's standard library. An existing file is kept, because the database uses its secrets.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parent.parent / ".env"


def text(gpu: bool) -> str:
    """The content of the file, with new secrets."""
    files = "docker-compose.yaml" if gpu else "docker-compose.yaml:docker-compose.no-gpu.yaml"
    found = "an" if gpu else "no"
    return f"""\
# Secrets and settings of docker-compose.yaml, made by make env. Keep a copy with your backups: without FERNET_KEY the
# connections' passwords in the database cannot be read.
POSTGRES_PASSWORD={secrets.token_hex(24)}
REDIS_PASSWORD={secrets.token_hex(24)}
FERNET_KEY={base64.urlsafe_b64encode(os.urandom(32)).decode()}
JWT_SECRET={secrets.token_hex(64)}
API_SECRET_KEY={secrets.token_hex(64)}
# Of the user admin, when the database is made; change it later in the UI.
ADMIN_PASSWORD={secrets.token_urlsafe(16)}

# Docker has {found} NVIDIA runtime. docker-compose.no-gpu.yaml lets worker-gpu compute on the CPU.
COMPOSE_FILE={files}
"""


def has_nvidia_runtime() -> bool:
    """Whether the Docker engine can hand a GPU to a container."""
    docker = shutil.which("docker")
    if not docker:
        return False
    command = [docker, "info", "--format", "{{json .Runtimes}}"]
    return "nvidia" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def main() -> int:
    """Write the file, unless it exists."""
    try:
        descriptor = os.open(ENV, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{ENV} exists and is kept; delete it, and the volumes, to start anew")
        return 0
    with os.fdopen(descriptor, "w") as file:
        file.write(text(has_nvidia_runtime()))
    print(f"wrote {ENV}; the password of the user admin is in it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
