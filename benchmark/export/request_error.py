"""The error that a served model raises; apart, since importing MLflow takes seconds."""

from __future__ import annotations

import json

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from benchmark.errors import DataError


class RequestError(DataError, MlflowException):
    """Bad input to a served model.

    MLflow's scoring server answers any other exception with its stack trace, and writes the input before the message of
    its own.
    """

    def __init__(self, message: str) -> None:
        MlflowException.__init__(self, message, error_code=BAD_REQUEST)
        self._line = " ".join(message.split())

    def serialize_as_json(self) -> str:
        """What the server sends."""
        return json.dumps({"error_code": self.error_code, "message": self._line})
