"""Audits the packages of a `pip freeze`. A known hole fails; an advisory service that is not to be had does not.

Usage: python audit.py FROZEN, with pip-audit in the same environment.
"""

import json
import subprocess
import sys
from pathlib import Path

OUT_OF_REACH = ("requests.exceptions.", "urllib3.exceptions.", "ConnectionError", "Could not connect", "timed out")
PATIENCE = 120


def audit(frozen: Path) -> int:
    """Say in one line how it went; the exit code."""
    flags = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    command = [sys.executable, "-m", "pip_audit", "-r", str(frozen), *flags]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        print(f"not audited: no answer from the advisory service in {PATIENCE} s")
        return 0
    if not ended.stdout.strip():
        if any(sign in ended.stderr for sign in OUT_OF_REACH):
            print("not audited: the advisory service cannot be reached")
            return 0
        print(ended.stderr, file=sys.stderr)
        return 1
    packages = json.loads(ended.stdout)["dependencies"]
    holes = [(package, hole) for package in packages for hole in package.get("vulns", [])]
    for package, hole in holes:
        mended = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print("not audited: the advisory service knows none of the packages")
    elif not holes:
        apart = f"; not known there: {', '.join(unknown)}" if unknown else ""
        print(f"{len(packages) - len(unknown)} packages audited, no known hole{apart}")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(audit(Path(sys.argv[1])))
