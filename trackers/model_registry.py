"""A version in MLflow's model registry: the exported folder beside a loader's name, no pickled code.

`loader` is the module that MLflow imports, so reliquant must be installed where the model is served.
"""

from __future__ import annotations

import logging
import shlex
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.errors import InputError, StorageError
from benchmark.tracking import ServedModel

PACKAGES = ("reliquant", "torch", "open_clip_torch", "mlflow", "numpy", "pillow", "safetensors", "pandas")


def register(client: Any, model: ServedModel, experiment: str, run: str | None) -> str:
    """Log the model, link it with its configuration's run, and make it the next version of its name.

    Args:
        client: an MlflowClient. experiment: id of the suite's. run: id of the configuration's run, where it was logged.

    Returns:
        One line that names the version and how to serve it.

    Raises:
        StorageError: something cannot be written.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    linked = "linked with its run"
    try:
        if run is None:
            linked = "linked with a new run, since this store has none of its configuration"
            run = str(client.create_run(experiment, tags={"kind": "export"}, run_name=model.name).info.run_id)
            client.set_terminated(run, "FINISHED")
        logged = client.create_logged_model(experiment, model.name, run, tags=dict(model.tags))
        with tempfile.TemporaryDirectory() as place:
            _save(Path(place) / "model", model, logged.model_id, run)
            client.log_model_artifacts(logged.model_id, str(Path(place) / "model"))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
        if not client.search_registered_models(f"name = '{model.name}'"):
            client.create_registered_model(model.name)
        made = client.create_model_version(
            model.name,
            logged.artifact_location,  # `models:/ID` would be looked up in MLflow's global store, not in this client's
            run,
            tags=dict(model.tags),
            description=model.description,
            model_id=logged.model_id,
        )
    except (MlflowException, OSError) as error:
        raise StorageError(f"model '{model.name}' cannot be registered: {error}") from error
    uri = f"models:/{model.name}/{made.version}"
    return f"registered {uri}, {linked}. Serve it: reliquant serve {shlex.quote(uri)}"


def check_name(name: str) -> None:
    """Refuse what the registry or its URIs cannot hold.

    Raises:
        InputError: names the characters.
    """
    if not name.strip() or set(name) & set("/:'\""):
        raise InputError(f"--register '{name}': a name in MLflow's registry is not empty and has no / : or quote")


def _save(place: Path, model: ServedModel, model_id: str, run: str) -> None:
    """MLflow's own layout, its flavour the loader's name and its data the folder."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, model.column)]),
        outputs=Schema([ColSpec(DataType.double, name) for name in model.classes]),
    )
    pyfunc.save_model(
        place,
        loader_module=model.loader,
        data_path=str(model.folder),
        mlflow_model=Model(run_id=run, model_id=model_id),
        signature=signature,
        input_example=pd.DataFrame({model.column: [model.example]}),
        pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
        metadata=dict(model.tags),
    )
