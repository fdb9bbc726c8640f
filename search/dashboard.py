"""`reliquant ui --search`: optuna-dashboard on the studies. It has no authentication: this machine only."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmark.browsing import LOOPBACK, open_later
from benchmark.errors import InputError
from benchmark.ui import check_port
from search.storage import journal_path


def serve(home: Path, host: str, port: int, storage: str | None = None, browse: bool = False) -> NoReturn:
    """Become the dashboard; it runs until it is stopped.

    Args:
        browse: open a browser on it when it answers.

    Raises:
        InputError: it is not installed, `host` is not this machine, there is no study, or the port is taken.
    """
    if find_spec("optuna_dashboard") is None:
        raise InputError("reliquant ui --search needs optuna-dashboard: pip install 'reliquant[search-ui]'")
    if host not in LOOPBACK:
        raise InputError(f"--host {host}: the dashboard has no authentication and listens on 127.0.0.1 only")
    where = storage or str(journal_path(home))
    if "://" not in where and not Path(where).is_file():
        raise InputError(f"no study in {home} yet; `reliquant search demo --home {home}` makes one")
    check_port(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/dashboard"
    print(address, flush=True)
    if browse:
        open_later(host, port, address)
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    os.execv(program, [program, where, "--host", host, "--port", str(port)])
