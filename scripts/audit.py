"""`make audit`: look for known vulnerabilities of the pinned packages; end with status 1 if there are any.

Prints how many packages could be looked up. PyPI has the list. Without access to it no package can be looked up, which
is not a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# What requirements-s3.txt and requirements-mlflow.txt have is in requirements-dev.txt, too.
FILES = ("requirements.txt", "requirements-dev.txt", "requirements-stack.txt", "requirements-gpu.txt")

# In an environment of its own, because it needs some twenty packages that nothing else here needs.
AUDIT = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "pip-audit==2.10.1", "--disable-pip", "--require-hashes"]


def main() -> int:
    """Print the vulnerabilities that are known; return status 1 if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.json"
        options = ["--format", "json", "--output", str(path), "--progress-spinner", "off"]
        requirements = [f"--requirement={name}" for name in FILES]
        audit = subprocess.run([*AUDIT, *options, *requirements], capture_output=True, text=True, check=False)
        if not path.exists():
            reason = (audit.stderr.strip() or f"pip-audit ended with status {audit.returncode}").splitlines()[-1]
            print(f"audit: no package could be looked up: {reason}")
            return 0
        packages = {package["name"]: package for package in json.loads(path.read_text())["dependencies"]}
    known = [package for package in packages.values() if "vulns" in package]
    vulnerable = [package for package in known if package["vulns"]]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"audit: {len(known)} of {len(packages)} packages could be looked up, {len(vulnerable)} of them vulnerable")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
