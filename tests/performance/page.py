"""docs/performance.md: the measured table between markers; what stands outside of them is written by hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PACKAGES = ("torch", "open_clip_torch", "mlflow", "numpy", "bitsandbytes")


def machine(device: str) -> dict[str, str]:
    """What the numbers belong to."""
    cpu = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    found = {
        "machine": f"{cpu or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "versions": ", ".join(f"{n} {version(n)}" for n in PACKAGES) + f", Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    if device.startswith("cuda"):
        found["machine"] += f", {torch.cuda.get_device_name(device)}"
    return found


def stamp(about: Mapping[str, str]) -> str:
    """Machine, versions and date in one line."""
    return f"{about['machine']}; {about['versions']}; {about['date']}"


def _cpuinfo() -> list[str]:
    place = Path("/proc/cpuinfo")
    return place.read_text().splitlines() if place.is_file() else []


def table(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str], command: str) -> str:
    """The rows as Markdown: the table, then the details of each row."""
    lines = [f"Measured with `{command}` on {stamp(about)}.", ""]
    lines += ["| row | what | measured | limit | target | |", "|---|---|---|---|---|---|"]
    words = {True: "reached", False: "**missed**", None: "not measured"}
    for row in rows:
        cells = (f"`{row['name']}`", row["what"], row["measured"], row["limit"], row["target"], words[row["reached"]])
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    for row in rows:
        other = [f"Measured on {row['about']}."] if row["about"] != stamp(about) else []
        lines += ["", f"**`{row['name']}`.** " + " ".join([*row["details"], *other])]
    return "\n".join(lines)


def put(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page; a new page has nothing else.

    Raises:
        SystemExit: the page exists and has no markers.
    """
    if not page.is_file():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{BEGIN}\n{text}\n{END}\n", encoding="utf-8")
        return
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines '{BEGIN}' and '{END}' to put the measured table between")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
