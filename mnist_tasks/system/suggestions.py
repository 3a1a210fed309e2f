"""How messages write this project's command line, so that it can be pasted as it is."""

from __future__ import annotations

import sys
from pathlib import Path

_OWN_ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv"  # which `make` sets up

# In the project's folder.
CLI = f"{'.venv/bin/' if Path(sys.prefix).resolve() == _OWN_ENVIRONMENT else ''}python -m mnist_tasks"
