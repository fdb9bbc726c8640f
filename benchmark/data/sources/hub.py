"""A data set of the Hugging Face hub, by id: parquet or webdataset, one commit of it, fetched into the client's cache.

The layout is told by the files that the commit has, and read by the readers of local files: `test/0.tar ...` with
`nshards.txt` by that of CLIP_benchmark's layout, `*.parquet` by that of parquet. Nothing is guessed from their number,
only the files of the asked split are fetched, and a webdataset is not unpacked.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from benchmark.data.sources.base import LoadedData, Source
from benchmark.data.sources.image_folder import CLASS_FILE, TEMPLATE_FILE
from benchmark.data.sources.parquet import (
    LABEL_CANDIDATES,
    SUFFIXES,
    ColumnOptions,
    from_columns,
    open_tables,
    quiet_datasets,
)
from benchmark.data.sources.parts import check_whole, of_split
from benchmark.data.sources.webdataset import COUNT_FILE
from benchmark.data.sources.webdataset import source as webdataset
from benchmark.errors import DataError
from benchmark.spec import HUB_ID, DataSpec, digest
from benchmark.utils.hub import REVISION, Repository, Snapshot, snapshot

DEFAULT_SPLIT = "test"
CARD = "README.md"


class HubOptions(ColumnOptions):
    """Options of the hub source, beside the names of the columns; in a webdataset those are suffixes of members.

    Attributes:
        config: configuration (subset) of a data set of parquet files.
        revision: branch, tag or commit; a commit makes results repeatable.
    """

    config: str | None = None
    revision: str | None = None


class Hub(Source[HubOptions]):
    """`path` is the id (`clip-benchmark/wds_imagenet1k`), `split` is `test` by default.

    Class names are those of a ClassLabel column or of the card; a webdataset's are the files `classnames.txt` and
    `zeroshot_classification_templates.txt` of the repository. Code in a repository is never run, and a local folder of
    that name never read.
    """

    name = "hub"
    version = 3
    title = "a data set of the Hugging Face hub by id (parquet or webdataset); options config, revision, columns"
    options = HubOptions
    needs_path = False
    places = ("config", "revision")

    def check(self, spec: DataSpec) -> None:
        """A well-formed id and revision; asks no network."""
        super().check(spec)
        if spec.path is None or not re.fullmatch(HUB_ID, spec.path):
            raise DataError(
                f"source 'hub': 'path' must be an id such as clip-benchmark/wds_vtab-cifar10, got {spec.path!r}; "
                "for a folder use 'source: webdataset', 'parquet' or 'image_folder'"
            )
        revision = self.parse(spec).revision
        if revision is not None and not REVISION.fullmatch(revision):
            raise DataError(f"source 'hub': options.revision must be a branch, a tag or a commit, got {revision!r}")

    def __init__(self) -> None:
        self._known: dict[Repository, Snapshot] = {}

    def fingerprint(self, spec: DataSpec) -> str:
        """Names and contents of the files that are read, as the commit lists them; the data are not downloaded.

        Here the hub is asked which commit the revision stands for; the methods below stay with it.
        """
        self.check(spec)
        repository = _repository(spec, self.parse(spec))
        self._known[repository] = found = snapshot(repository)
        return digest([[name, found.files[name]] for name in _wanted(found, spec, self.parse(spec)) if name != CARD])

    def snapshot(self, spec: DataSpec) -> Snapshot:
        """The commit that the last fingerprint found.

        Raises:
            DataError: there is none, or the hub is away and none is cached.
        """
        self.check(spec)
        repository = _repository(spec, self.parse(spec))
        if repository not in self._known:
            self._known[repository] = snapshot(repository)
        return self._known[repository]

    def origin(self, spec: DataSpec) -> str:
        """`ORG/NAME@COMMIT`."""
        return self.snapshot(spec).origin

    def roots(self, spec: DataSpec) -> tuple[Path, ...]:
        """The cache of the hub's client."""
        return (_repository(spec, self.parse(spec)).cache.absolute(),)

    def load(self, spec: DataSpec) -> LoadedData:
        """Download what is not cached, and read it."""
        options, found = self.parse(spec), self.snapshot(spec)
        names = _wanted(found, spec, options)
        found.fetch(names)
        found.keep()
        if _shards(found, spec):
            return webdataset.load(_as_webdataset(found, spec, options))
        paths = [found.path(name) for name in names if name.endswith(SUFFIXES)]
        with quiet_datasets():
            loaded = from_columns(open_tables(paths), options, spec, [found.folder])
        if loaded.class_names is not None or options.label is not None:
            return loaded
        return replace(loaded, class_names=_names(_card(found), options.config))


def _repository(spec: DataSpec, options: HubOptions) -> Repository:
    return Repository(str(spec.path), options.revision, "dataset")


def _wanted(found: Snapshot, spec: DataSpec, options: HubOptions) -> list[str]:
    """The files of the split, and those with names and templates.

    Raises:
        DataError: no file of a layout that is read, or none of the split.
    """
    if shards := _shards(found, spec):
        _as_webdataset(found, spec, options)  # its options are checked before anything is fetched
        beside = [PurePosixPath(shards[0]).with_name(COUNT_FILE).as_posix(), CLASS_FILE, TEMPLATE_FILE]
        return [*shards, *(name for name in beside if name in found.files)]
    tables = [name for name in sorted(found.files) if name.endswith(SUFFIXES)]
    if not tables:
        kinds = sorted({PurePosixPath(name).suffix for name in found.files} - {""})
        raise found.repository.error(
            f"no *.tar and no *.parquet of a data set there (but {', '.join(kinds) or 'nothing'}); download it and "
            "give its folder, e.g. with 'source: image_folder'"
        )
    chosen = _of_card(_card(found), tables, spec.split or DEFAULT_SPLIT, options.config)
    if chosen is None:
        inside = [name for name in tables if options.config in (None, *PurePosixPath(name).parts[:-1])]
        if not inside:
            raise found.repository.error(f"no files of configuration '{options.config}' (option config)")
        chosen = of_split(inside, spec.split or DEFAULT_SPLIT, found.repository.where)
    check_whole(chosen, options.shards, found.repository.where)
    return [*chosen, *([CARD] if CARD in found.files else [])]


def _shards(found: Snapshot, spec: DataSpec) -> list[str]:
    """The tar files of the split: those in its folder, else those at the top that are named after it."""
    split = spec.split or DEFAULT_SPLIT
    tars = [name for name in sorted(found.files) if name.endswith(".tar")]
    inside = [name for name in tars if str(PurePosixPath(name).parent) == split]
    if inside or not tars:
        return inside
    if any(name.endswith(SUFFIXES) for name in found.files):
        return []
    top = [name for name in tars if "/" not in name]
    if not top:
        folders = sorted({str(PurePosixPath(name).parent) for name in tars})
        raise found.repository.error(
            f"no shards {split}/*.tar, but in {', '.join(folders[:8])}; name one with 'split:'"
        )
    return of_split(top, spec.split, found.repository.where)


def _as_webdataset(found: Snapshot, spec: DataSpec, options: HubOptions) -> DataSpec:
    """The snapshot as a local webdataset.

    Raises:
        DataError: an option that only tables have.
    """
    for name in ("group", "id", "base", "config"):
        if getattr(options, name) is not None:
            raise found.repository.error(f"a webdataset has no option '{name}'; remove it from 'options:'")
    own = {"label": options.label, "caption": options.caption, "image": options.image, "shards": options.shards}
    given = tuple(sorted((name, value) for name, value in own.items() if value is not None))
    return spec.model_copy(update={"source": "webdataset", "path": str(found.folder), "options": given})


def _card(found: Snapshot) -> Mapping[str, Any]:
    """The header of the data set's card; empty where there is none that can be read."""
    if CARD not in found.files:
        return {}
    text = found.fetch([CARD]).path(CARD).read_text(encoding="utf-8", errors="replace")
    header = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        card = yaml.safe_load(header[1]) if header else {}
    except (yaml.YAMLError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _entries(card: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = card.get(key)
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, Mapping)]


def _chosen(entries: Sequence[Mapping[str, Any]], config: str | None) -> Mapping[str, Any] | None:
    """The entry of a configuration; without a name the default one, or the only one."""
    if config is not None:
        return next((each for each in entries if each.get("config_name") == config), None)
    default = [each for each in entries if each.get("default") or each.get("config_name") == "default"]
    return default[0] if default else entries[0] if len(entries) == 1 else None


def _of_card(card: Mapping[str, Any], tables: Sequence[str], split: str, config: str | None) -> list[str] | None:
    """The files that the card lists for a split; None where it lists none."""
    files = (_chosen(_entries(card, "configs"), config) or {}).get("data_files")
    listed = files if isinstance(files, list) else [files]
    patterns = [p for each in listed if isinstance(each, Mapping) and each.get("split") == split for p in _paths(each)]
    chosen = [name for name in tables if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return chosen or None


def _paths(entry: Mapping[str, Any]) -> list[str]:
    path = entry.get("path")
    return [str(each) for each in (path if isinstance(path, list) else [path]) if each is not None]


def _names(card: Mapping[str, Any], config: str | None) -> tuple[str, ...] | None:
    """Class names that only the card has."""
    features = (_chosen(_entries(card, "dataset_info"), config) or {}).get("features")
    for each in features if isinstance(features, list) else ():
        kind = each.get("dtype") if isinstance(each, Mapping) else None
        label = kind.get("class_label") if isinstance(kind, Mapping) else None
        names = label.get("names") if isinstance(label, Mapping) else None
        if isinstance(names, Mapping) and each.get("name") in LABEL_CANDIDATES and all(str(k).isdigit() for k in names):
            return tuple(str(name) for _, name in sorted(names.items(), key=lambda pair: int(pair[0])))
    return None


source = Hub()
