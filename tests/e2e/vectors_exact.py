"""What goes wrong around the numbers, through the command line: damaged rows and stores, secrets, paths, bounds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmark.spec import digest
from tests.e2e.vectors import Try
from tests.e2e.vectors_ends import call
from tests.hostile_images import png
from tests.layouts import write_image_folder

QUANT = "rtn-w4-channel-vision"
SECRET = "TIG@ER/SHARK#FIN"
"""In capitals, which nothing else in these messages has three of in a row."""
RUN = ("--quiet", "--no-speed", "--task", "zero_shot")


def suite(data: str, name: str = "small") -> str:
    return (
        f"name: {name}\nversion: 1\nmodels: [demo]\nquantizations: [fp32, {QUANT}]\ndata:\n  mine: {data}\n"
        "tasks:\n  zero_shot: {mine: {test: mine}}\n"
    )


def refused(done: subprocess.CompletedProcess[str], says: str) -> str:
    """One line and status 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    line = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr, done.stderr
    assert line.startswith("reliquant: error: "), line
    assert says in line, line
    return f"refused: {line.removeprefix('reliquant: error: ')[:150]}"


def finished(tmp: Path) -> Path:
    """A folder with pictures elsewhere, a suite file and its results."""
    folder = tmp / "finished"
    folder.mkdir(parents=True)
    classes = ("circle", "square")
    write_image_folder(tmp / "elsewhere" / "pictures", classes, 8)
    (folder / "suite.yaml").write_text(suite(f"{{source: image_folder, path: '{tmp}/elsewhere/pictures'}}"))
    done = call(folder, "run", "suite.yaml", *RUN, "--home", "home")
    assert done.returncode == 0, done.stderr
    return folder


def copy_of(made: Callable[[], Path], name: str) -> Path:
    """A copy of the results whose ledger may be spoiled."""
    folder, new = made(), made().parent / name
    subprocess.run(["cp", "-r", str(folder), str(new)], check=True)
    return new


def with_row(made: Callable[[], Path], name: str, forge: Callable[[dict[str, object]], dict[str, object]]) -> str:
    """A row of the last record, changed, at the end of the ledger: named by its line, and its number not shown."""
    folder = copy_of(made, name)
    file = folder / "home" / "ledger.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "record" and row["quantization"] == QUANT][-1]
    last.pop("sha256")
    with file.open("a") as lines:
        lines.write(json.dumps(forge(last)) + "\n")
    before = call(made(), "show", QUANT, "--suite", "small", "--home", "home", "--json")
    after = call(folder, "show", QUANT, "--suite", "small", "--home", "home", "--json")
    assert (before.returncode, after.returncode) == (0, 0), after.stderr
    assert json.loads(before.stdout)["metrics"] == json.loads(after.stdout)["metrics"]
    assert f"line {len(rows) + 1}: " in after.stderr, after.stderr
    page = call(folder, "report", "suite.yaml", "--home", "home", "--quiet")
    assert page.returncode == 0, page.stderr
    return f"skipped: {after.stderr.strip()[-90:]}"


def unsigned(row: dict[str, object]) -> dict[str, object]:
    return {**row, "metrics": {"zero_shot/mine/accuracy": 0.99}}


def forged(row: dict[str, object]) -> dict[str, object]:
    changed = {**row, "metrics": {"zero_shot/mine/accuracy": "0.99"}}
    return {**changed, "sha256": digest(changed)}


def damaged_store(made: Callable[[], Path], command: str) -> str:
    """A garbage `mlflow.db` beside a complete ledger."""
    folder = copy_of(made, f"store-{command}")
    for rest in (folder / "home").glob("mlflow.db*"):
        rest.unlink()
    (folder / "home" / "mlflow.db").write_bytes(b"garbage" * 999)
    options = [*RUN, "--home", "home"] if command == "run" else ["--home", "home", "--quiet"]
    done = call(folder, command, "suite.yaml", *options)
    assert done.returncode == 0, done.stderr
    aside = list((folder / "home").glob("mlflow.db.damaged-*"))
    assert len(aside) == (command != "report")
    assert "is damaged" in done.stderr or command == "report"
    return f"status 0, {len(aside)} set aside"


def no_secret(tmp: Path, *words: str) -> str:
    """A password with marks in it and a secret of the query, in an address that cannot be reached."""
    address = f"postgresql://me:{SECRET}@127.0.0.1:1/db?sslpassword=WHALE"
    done = call(tmp, *(word.format(address=address) for word in words))
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert not re.search(r"TIG|SHARK|FIN\b|WHALE", done.stdout + done.stderr), done.stderr
    return f"masked: {done.stderr.strip()[-100:]}"


def no_paths(made: Callable[[], Path]) -> str:
    """Report, model card and MLflow of results whose data lie elsewhere."""
    folder = made()
    root = str(folder.parent)
    assert call(folder, "report", "suite.yaml", "--home", "home", "--quiet").returncode == 0
    assert root not in (folder / "report.html").read_text()
    kept = call(
        folder, "report", str(folder / "suite.yaml"), "--home", "home", "--quiet", "--keep-paths", "-o", "k.html"
    )
    assert kept.returncode == 0, kept.stderr
    assert root in (folder / "k.html").read_text()
    done = call(folder, "export", f"{folder}/suite.yaml", "--to", f"{folder}/packed", "--home", "home", "--quiet")
    assert done.returncode == 0, done.stderr
    for name in ("README.md", "reliquant.json"):
        assert root not in (folder / "packed" / name).read_text(), name
    stored = b"".join(path.read_bytes() for path in (folder / "home").glob("mlflow.db*"))
    assert f"{root}/elsewhere".encode() not in stored
    return "report, card and MLflow without absolute paths; with --keep-paths they are there"


def quoted_hint(tmp: Path) -> str:
    done = call(tmp, "ui", "--home", "a b; echo x")
    return refused(done, "--home 'a b; echo x'`")


def outside(tmp: Path) -> str:
    """A parquet file that names a picture beside its folder."""
    folder = tmp / "outside"
    (folder / "data").mkdir(parents=True)
    (folder / "secret.png").write_bytes(png(8, 8))
    pq.write_table(pa.table({"image": ["../secret.png"], "label": ["circle"]}), folder / "data" / "test.parquet")
    (folder / "suite.yaml").write_text(suite("{source: parquet, path: data}"))
    says = refused(call(folder, "run", "suite.yaml", *RUN, "--tracker", "jsonl"), "allow it by --allow-outside")
    done = call(folder, "validate", "suite.yaml", "--allow-outside")
    assert "leads out of" not in done.stdout + done.stderr
    return says


def too_many_shards(tmp: Path) -> str:
    folder = tmp / "shards"
    (folder / "data" / "test").mkdir(parents=True)
    (folder / "data" / "test" / "nshards.txt").write_text("99999999999")
    (folder / "suite.yaml").write_text(suite("{source: webdataset, path: data}"))
    return refused(call(folder, "run", "suite.yaml", *RUN), "0.tar: missing; nshards.txt counts 99999999999 shards")


def too_many_classes(tmp: Path, classes: int, length: int, says: str) -> str:
    folder = tmp / f"classes-{classes}"
    (folder / "data" / "a").mkdir(parents=True)
    (folder / "data" / "a" / "a.png").write_bytes(png(8, 8))
    (folder / "names.txt").write_text("\n".join(f"{i:0{length}d}" for i in range(classes)))
    (folder / "suite.yaml").write_text(suite("{source: image_folder, path: data, classes: names.txt}"))
    return refused(call(folder, "run", "suite.yaml", *RUN), says)


def too_many_quantizations(tmp: Path) -> str:
    numbers = ",".join(map(str, range(1000)))
    name = f"rtn-w4-g{{{numbers}}}-skip_{{{numbers}}}-vision"
    return refused(call(tmp, "run", "demo", *RUN, "--quant", name), "more than 10000 alternatives")


def unsupported(tmp: Path, kind: str) -> str:
    folder = tmp / f"kind-{kind}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    processor = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, "resample": 3}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor |= dict.fromkeys(("do_resize", "do_center_crop", "do_normalize", "do_rescale"), True)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros(3, np.float32)}, folder / "model.safetensors")
    done = call(tmp, "run", "demo", *RUN, "--model", f"transformers:{folder}", "--tracker", "jsonl", "--limit", "20")
    return refused(done, "transformers cannot load it")


def tries(tmp: Path) -> list[Try]:
    """All of them; they share one finished sweep."""
    made = cache(partial(finished, tmp / "sweep"))
    address = ("--tracking-uri", "{address}")
    listed: list[tuple[str, str, Callable[[], str]]] = [
        ("ledger", "a row without sha256", lambda: with_row(made, "unsigned", unsigned)),
        ("ledger", "a metric that is a text, forged checksum", lambda: with_row(made, "forged", forged)),
        *(("ledger", f"garbage mlflow.db: {c}", partial(damaged_store, made, c)) for c in ("run", "report", "sync")),
        ("secret", "run: password with @ / #", lambda: no_secret(tmp, "run", "demo", *RUN, "--limit", "20", *address)),
        ("secret", "ui: password with @ / #", lambda: no_secret(tmp, "ui", *address)),
        ("secret", "dashboard: the same", lambda: no_secret(tmp, "dashboard", "--storage", "{address}")),
        ("path", "report, card and MLflow", lambda: no_paths(made)),
        ("path", "a hint for the shell", lambda: quoted_hint(tmp)),
        ("path", "a path inside parquet leads outside", lambda: outside(tmp)),
        ("bound", "nshards.txt = 99999999999", lambda: too_many_shards(tmp)),
        ("bound", "100,000 classes", lambda: too_many_classes(tmp, 100_000, 6, "100,000 classes, at most")),
        ("bound", "10 MB of names", lambda: too_many_classes(tmp, 10, 1_000_000, "a file of names has at most")),
        ("bound", "a million quantizations", lambda: too_many_quantizations(tmp)),
        ("bound", "model_type: rag", lambda: unsupported(tmp, "rag")),
    ]
    return [Try(kind, name, attempt) for kind, name, attempt in listed]
