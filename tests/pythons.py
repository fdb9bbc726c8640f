"""Quick tests on the newest Python of this machine: `python -m tests.pythons`; `make test` has its oldest.

It looks for python3.14 down to 3.12 on the path and among pyenv's, makes an environment with the pinned versions in
`.venv/newest`, and runs there the tests of what differs between Pythons: metrics, specifications, tasks, results,
plugins, options. Says which Python it took, or that there is only one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT

CANDIDATES = ((3, 14), (3, 13), (3, 12))
TESTS = ("contract", "unit/metrics", "unit/results", "unit/spec", "unit/tasks", "unit/utils")
LOOSE = ("unit/test_plugins.py", "unit/test_public_api.py", "unit/test_registry.py", "unit/cli/test_options.py")


def found(version: tuple[int, int]) -> Path | None:
    """An interpreter of this version that starts."""
    name = f"python{version[0]}.{version[1]}"
    places = [shutil.which(name), *sorted(Path.home().glob(f".pyenv/versions/{version[0]}.{version[1]}.*/bin/{name}"))]
    code = "import sys, sqlite3, ssl, ctypes; print(*sys.version_info[:2])"
    for place in filter(None, places):
        ended = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False)
        if ended.stdout.split() == [str(part) for part in version]:
            return Path(place)
    return None


def main() -> int:
    """Install and test; returns pytest's status."""
    own = sys.version_info[:2]
    newest = next((p for v in CANDIDATES if v > own and (p := found(v)) is not None), None)
    missing = [f"{a}.{b}" for a, b in CANDIDATES if (a, b) > own and found((a, b)) is None]
    if missing:
        print(f"not on this machine, so not tried: Python {', '.join(missing)}", flush=True)
    if newest is None:
        print(f"Python {own[0]}.{own[1]} is the only one here that reliquant runs on; it was tried by `make test`")
        return 0
    print(f"quick tests on {newest}, beside those on Python {own[0]}.{own[1]} by `make test`", flush=True)
    place = ROOT / ".venv" / "newest"
    python, uv = place / "bin" / "python", [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--allow-existing", "--python", newest, place], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", python, "--constraint", "constraints.txt"]
    subprocess.run([*install, "--group", "dev", "--editable", ".[all]"], cwd=ROOT, check=True)
    paths = [f"tests/{name}" for name in (*TESTS, *LOOSE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-n", "2", "-m", "not slow", *paths]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
