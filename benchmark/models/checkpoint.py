"""Weight files: read safely (safetensors, or torch with `weights_only`), matched against an architecture, hashed.

Nothing here unpickles arbitrary objects. Every problem is one `ModelError` that names the file and the tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import ModelError, NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weight files in a folder, the preferred first (open_clip's order, safetensors before pickles)."""

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".tar")


def find_weights(folder: Path) -> Path:
    """The weight file of a folder.

    Raises:
        ModelError: there is none, or several of unknown names.
    """
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *TORCH_SUFFIXES))
    if not others:
        raise ModelError(f"{folder}: no weights found; put {WEIGHT_NAMES[0]} there")
    if len(others) > 1:
        raise ModelError(f"{folder}: several weight files ({', '.join(p.name for p in others)}); keep one of them")
    return others[0]


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, from its header alone.

    Raises:
        ModelError: not a safetensors file, or shorter than its header says.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: not a safetensors file (broken header); fetch it again") from None
    if 8 + length + end != size:
        raise ModelError(f"{path}: truncated, {size:,} bytes where its header asks for {8 + length + end:,}")
    return shapes


def count_parameters(path: Path) -> int | None:
    """Number of stored values, if the header tells (safetensors)."""
    return sum(map(math.prod, read_header(path).values())) if path.suffix == ".safetensors" else None


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint on the CPU.

    Raises:
        ModelError: truncated, an unknown format, or a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        read_header(path)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path}: cannot be read ({error})") from None
    if path.suffix not in TORCH_SUFFIXES:
        raise ModelError(f"{path}: unknown weight format; use .safetensors (or {', '.join(TORCH_SUFFIXES)})")
    return _tensors(_read_torch(path), path)


def _read_torch(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol", UserWarning
            )  # the file is refused or read regardless
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path}: a pickle that holds more than tensors is not loaded, since it could run any code; "
            "save its state_dict as .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: cannot be read as a torch checkpoint ({reason})") from None


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dict within a loaded checkpoint, without the prefix of data-parallel training."""
    import torch

    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path}: holds no state dict")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{path}: entry '{name}' is a {type(value).__name__}, not a tensor; save the state_dict")
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise NonFiniteError, naming the tensor, if a weight is NaN or infinite."""
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise NonFiniteError(f"{path}: tensor '{name}' holds {count:,} values that are NaN or infinite")


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, unused: str | None = None) -> None:
    """Copy a state dict into a module whose tensors must match it exactly in name and shape.

    Args:
        unused: name of a part that will be deleted: its weights may be NaN.

    Raises:
        ModelError: names the first missing, unexpected and mismatched tensors.
        NonFiniteError: a weight is NaN or infinite.
    """
    expected = module.state_dict()
    problems = _mismatches(expected, state)
    if problems:
        raise ModelError(f"{path} does not match its architecture: {'; '.join(problems)}")
    check_finite({name: v for name, v in state.items() if not (unused and name.startswith(f"{unused}."))}, path)
    module.load_state_dict(dict(state), strict=True)


def _mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    problems = []
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    for kind, found in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)):
        if found:
            problems.append(f"{kind} {_first(found)}")
    return problems


def _first(names: Iterable[str], shown: int = 2) -> str:
    listed = list(names)
    more = f" and {len(listed) - shown:,} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
