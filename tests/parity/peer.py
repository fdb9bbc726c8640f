"""CLIP_benchmark in an environment of its own, and what it makes of a local webdataset and a local checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / "build" / "parity-venv"
PEER = "clip-benchmark==1.6.2"
SHARED = ("torch", "torchvision", "open_clip_torch", "pillow")
"""Of the same version as here: the peer's own code is compared, not two builds of PyTorch."""


def build() -> Path:
    """The peer's Python; the environment is made on first use, or when the versions here have changed."""
    wanted = [PEER, "numpy<2.4", "requests", *(f"{name}=={version(name).partition('+')[0]}" for name in SHARED)]
    stamp, python = VENV / "requirements.txt", VENV / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == "\n".join(wanted):
        return python
    uv = Path(sys.executable).parent / "uv"
    print(f"building {VENV.relative_to(ROOT)} with {PEER} ...", file=sys.stderr)
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    stamp.write_text("\n".join(wanted))
    return python


def evaluate(
    python: Path, folder: Path, names: list[str], models: list[str], workers: int = 0
) -> dict[tuple[str, str], dict[str, float]]:
    """CLIP_benchmark's metrics by (data set, model).

    Args:
        folder: holds webdatasets named `names`, and checkpoints in open_clip's local-dir layout named `models`.
        workers: processes that decode images; each needs a shard of its own.
    """
    command = [python.parent / "clip_benchmark", "eval", "--dataset", *(f"wds/{name}" for name in names)]
    command += ["--dataset_root", "{dataset}", "--model", *(f"local-dir:{model}" for model in models)]
    command += ["--pretrained", "none", "--num_workers", str(workers), "--no_amp", "--output", "{dataset}+{model}.json"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=folder, env=offline, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"CLIP_benchmark failed:\n{result.stderr[-3000:]}")
    files = {(name, model): folder / f"{name}+local-dir:{model}.json" for name in names for model in models}
    return {key: json.loads(file.read_text())["metrics"] for key, file in files.items()}
