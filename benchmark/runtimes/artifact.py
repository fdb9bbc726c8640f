"""From what a suite says of an artifact to its files, their digests and the runtimes that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.errors import ArtifactError, why
from benchmark.runtimes.base import FeatureTable, Runtime
from benchmark.runtimes.registry import runtimes
from benchmark.spec import ArtifactQuant, ArtifactSpec, Scope, Tower
from benchmark.utils.digests import file_digest

SCOPES: Mapping[frozenset[Tower], Scope] = {
    frozenset(("vision",)): "vision",
    frozenset(("text",)): "text",
    frozenset(("vision", "text")): "vision+text",
}
KINDS: Mapping[Tower, str] = {"vision": "image", "text": "text"}
"""Tower -> what its features are of, as `FeatureTable` says it."""


@dataclass(frozen=True)
class TowerFile:
    """The file that holds one tower, and the runtime that reads it. `files`: all that belong to it, `path` first."""

    path: Path
    runtime: Runtime
    files: tuple[Path, ...]

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file's bytes.

        Raises:
            ArtifactError: one cannot be read.
        """
        try:
            return tuple(map(file_digest, self.files))
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be read ({why(error)})") from error

    @property
    def bytes(self) -> int | None:
        """Size of all files together; None for features, whose file says nothing about the size of a model."""
        return None if isinstance(self.runtime, FeatureTable) else sum(file.stat().st_size for file in self.files)

    def content(self, device: str) -> dict[str, Any]:
        """Everything that determines the tower's function, besides the model's preprocessing."""
        runtime = self.runtime
        about = [runtime.name, runtime.version, runtime.library_version(), runtime.provider(device)]
        return {"runtime": about, "files": list(self.digests)}


@dataclass(frozen=True)
class Artifact:
    """An artifact whose files are on this machine.

    Attributes:
        quant: stands for it where a quantization stands. towers: those that it replaces.
    """

    name: str
    quant: ArtifactQuant
    towers: Mapping[Tower, TowerFile]

    def content(self, towers: tuple[Tower, ...], device: str) -> dict[str, Any]:
        """Everything that determines these of its towers."""
        return {"artifact": {tower: self.towers[tower].content(device) for tower in towers}}


def resolve_artifact(name: str, spec: ArtifactSpec, device: str) -> Artifact:
    """Find an artifact's files and runtimes; nothing is run.

    Args: device: `cpu` or `cuda`.

    Raises:
        ArtifactError: a file is missing or of no known kind, or a runtime is not available here; names the artifact.
    """
    where = f"artifact '{name}'"
    try:
        towers: dict[Tower, TowerFile] = {}
        given: tuple[tuple[Tower, str | None], ...] = (("vision", spec.file), ("text", spec.text))
        for tower, path in given:
            if path is not None:
                towers[tower] = _tower_file(Path(path).expanduser(), spec.runtime, device)
        towers = _scoped(towers, spec)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from None
    names = dict.fromkeys(file.runtime.name for file in towers.values())
    quant = ArtifactQuant(label=name, method="-".join(names), scope=SCOPES[frozenset(towers)])
    return Artifact(name, quant, towers)


def _tower_file(path: Path, runtime: str | None, device: str) -> TowerFile:
    chosen = runtime_of(path) if runtime is None else runtimes.get(runtime)
    suffixes = (*chosen.suffixes, *chosen.also)
    if path.suffix not in suffixes:
        raise ArtifactError(f"{path}: runtime '{chosen.name}' reads {', '.join(suffixes)}, not '{path.suffix}'.")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file{' (it is a folder)' if path.is_dir() else ''}.")
    chosen.check_available(device)
    return TowerFile(path, chosen, chosen.files(path))


def runtime_of(path: Path) -> Runtime:
    """The first runtime by name that reads files with this suffix.

    Raises:
        ArtifactError: none does; lists the suffixes that are known.
    """
    for _, runtime in runtimes:
        if path.suffix in runtime.suffixes:
            return runtime
    known = ", ".join(f"{' '.join(runtime.suffixes)} ({name})" for name, runtime in runtimes)
    raise ArtifactError(
        f"{path}: no runtime reads files that end in '{path.suffix}'. Known: {known}. "
        "Export it to one of these, or make features (docs/artifacts.md)."
    )


def _scoped(towers: dict[Tower, TowerFile], spec: ArtifactSpec) -> dict[Tower, TowerFile]:
    """The towers of the scope that is asked for; a file of features may hold both."""
    main = towers.get("vision")
    if main is not None and isinstance(main.runtime, FeatureTable):
        kinds = main.runtime.kinds(main.path)
        if "image" not in kinds and ("text" not in kinds or spec.text is not None):
            raise ArtifactError(f"{main.path}: it has no features of images. Give them under image_id and image.")
        if "text" in kinds and spec.text is None:
            towers = {**towers, "text": main}
        if "image" not in kinds:
            towers = {tower: file for tower, file in towers.items() if tower != "vision"}
    wanted = spec.scope
    if wanted is None:
        return towers
    scope: tuple[Tower, ...] = ArtifactQuant(label="x", method="x", scope=wanted).towers
    for tower in scope:
        if tower not in towers:
            raise ArtifactError(f"scope {wanted} needs the {tower} tower too. Give {tower}: FILE, or another scope.")
    return {tower: towers[tower] for tower in scope}
