"""`reliquant data prepare`: a published archive into the layout that suites read."""

from __future__ import annotations

import json

from benchmark.cli.requests import DataPrepareRequest
from benchmark.download.catalogue import catalogue as downloads
from benchmark.download.catalogue import own_files
from benchmark.download.prepare import ARCHIVES, DEVKIT, FOLDER, TAR, VALIDATION, prepare
from benchmark.errors import InputError
from benchmark.spec.catalogue import catalogue
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress


def prepare_data(request: DataPrepareRequest) -> None:
    """Make the folders, and say where they are."""
    if request.to is None:
        raise InputError("data prepare: no folder of data; set RELIQUANT_DATA, or give it with --to FOLDER")
    root = request.to.expanduser().absolute()
    fetched = root / ARCHIVES
    tar = request.tar or fetched / TAR
    labels = request.labels or next((p for p in (tar.parent / DEVKIT, fetched / DEVKIT) if p.is_file()), None)
    if labels is None and not (root / FOLDER / VALIDATION).is_dir():
        raise InputError(
            f"data prepare {request.what}: no {DEVKIT} beside {tar} or in {fetched}; give it with --devkit FILE (or a "
            "text file with the WordNet id of each image, one a line)"
        )
    about = catalogue(request.catalogues)[request.what]
    with open_progress(request.quiet):
        made = prepare(
            root,
            tar,
            labels or fetched / DEVKIT,
            downloads(own_files(request.home)),
            about.images,
            about.classes_present,
        )
    if request.json:
        found = {"folder": str(made.folder), "images": made.images, "classes": made.classes, "made": made.made}
        print(json.dumps(found), file=out())
    elif not request.quiet:
        how = "made" if made.made else "was there already"
        print(f"{made.folder}: {made.images:,} images of {made.classes:,} classes, {how}", file=out())
        if made.made and (shards := root / FOLDER / "test").is_dir():
            print(f"{shards}, the hub's copy, is not read any more: remove it if you need the room", file=out())
