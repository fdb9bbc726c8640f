"""The command that MLflow's tracker brings: its options. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.engine.request import Home, Store
from benchmark.utils.options import Command, option


@dataclass(frozen=True, kw_only=True)
class ServeRequest(Home, Store):
    """Serve a registered model over HTTP with MLflow, within limits on size, depth and time of a request."""

    model: str = option(..., "models:/NAME/VERSION, as `export --register NAME` prints it.", argument=True)
    port: int = option(5001, "Where it listens.", minimum=1, maximum=65535)
    host: str = option("127.0.0.1", "Interface; there is no authentication.")


serve = Command("serve", ServeRequest, f"{__package__}.serving:run_server")
