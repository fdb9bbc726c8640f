"""A data set of the Hugging Face hub, by id: parquet or webdataset, downloaded once into the hub's cache."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.data.sources.base import LoadedData, Source
from benchmark.data.sources.image_folder import CLASS_FILE, TEMPLATE_FILE
from benchmark.data.sources.parquet import ColumnOptions, from_columns, quiet_datasets
from benchmark.errors import DataError
from benchmark.spec import HUB_ID, DataSpec, digest
from benchmark.utils.files import read_lines, read_names
from benchmark.utils.progress import shown

if TYPE_CHECKING:
    import datasets

WAY_OUT = (
    "without a network, set HF_HUB_OFFLINE=1 and use a filled cache, or download the data elsewhere and give its "
    "folder with 'source: webdataset', 'parquet' or 'image_folder'"
)


class HubOptions(ColumnOptions):
    """Options of the hub source, beside the names of the columns.

    Attributes:
        config: configuration (subset) of the data set.
        revision: branch, tag or commit; a commit makes results repeatable.
    """

    config: str | None = None
    revision: str | None = None


class Hub(Source[HubOptions]):
    """`path` is the id (`clip-benchmark/wds_imagenet1k`), `split` is `test` by default.

    Class names are those of a ClassLabel column; a webdataset's (recognised by its column `__key__`) are the files
    `classnames.txt` and `zeroshot_classification_templates.txt` of the repository. Code in a repository is never run,
    and a local folder of that name never read.
    """

    name = "hub"
    version = 2
    title = "a data set of the Hugging Face hub by id (parquet or webdataset); options config, revision, columns"
    options = HubOptions
    needs_path = False

    def check(self, spec: DataSpec) -> None:
        """A well-formed id; asks no network."""
        super().check(spec)
        if spec.path is None or not re.fullmatch(HUB_ID, spec.path):
            raise DataError(
                f"source 'hub': 'path' must be an id such as clip-benchmark/wds_vtab-cifar10, got {spec.path!r}; "
                "for a folder use 'source: webdataset', 'parquet' or 'image_folder'"
            )

    def fingerprint(self, spec: DataSpec) -> str:
        """The addresses of the files, which name the commit, and their sizes; loads the data set."""
        info = self.table(spec).info
        sums = {address: entry["num_bytes"] for address, entry in (info.download_checksums or {}).items()}
        return digest([spec.path, sums or self.table(spec)._fingerprint])

    def roots(self, spec: DataSpec) -> tuple[Path, ...]:
        """The caches of the hub."""
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE

        caches = (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE)
        return tuple(Path(cache).absolute() for cache in caches)

    def table(self, spec: DataSpec) -> datasets.Dataset:
        """The split with its own columns."""
        self.check(spec)
        options = self.parse(spec)
        return _load(str(spec.path), options.config, spec.split or "test", options.revision)

    def load(self, spec: DataSpec) -> LoadedData:
        """Download, or take from the cache."""
        options, table, path = self.parse(spec), self.table(spec), str(spec.path)
        if "__key__" not in table.column_names:
            return from_columns(table, options, spec)
        loaded = from_columns(table, options.model_copy(update={"id": options.id or "__key__"}), spec)
        names = loaded.class_names or _lines(path, CLASS_FILE, options.revision, read_names)
        templates = None if spec.templates else _lines(path, TEMPLATE_FILE, options.revision, read_lines)
        return LoadedData(loaded.dataset, names, templates, loaded.group_names)


@functools.lru_cache(maxsize=4)
def _load(path: str, config: str | None, split: str, revision: str | None) -> datasets.Dataset:
    """Always from the hub: by its bare id `datasets` would take a folder of that name, or a reader such as `csv`."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if path in _PACKAGED_DATASETS_MODULES:
        raise DataError(f"hub data set '{path}': the name of a file format, no data set; give an id such as org/name")
    expected = (OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled, datasets.exceptions.DatasetsError)
    try:
        with quiet_datasets(), shown().phase(f"download {path}, or read it from the cache", 1) as advance:
            found: datasets.Dataset = datasets.load_dataset(
                f"hf://datasets/{path}", config, split=split, revision=revision
            )
            advance(1)
            return found
    except expected as error:
        raise DataError(f"hub data set '{path}' cannot be loaded ({_first_line(error)}); {WAY_OUT}") from error


def _lines(
    repository: str, name: str, revision: str | None, read: Callable[[Path], tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Lines of a text file of the repository, None where it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return read(Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision)))
    except LocalEntryNotFoundError as error:
        raise DataError(f"hub data set '{repository}': {name} is not in the cache; {WAY_OUT}") from error
    except EntryNotFoundError:
        return None
    except (OSError, HfHubHTTPError) as error:
        raise DataError(f"hub data set '{repository}': {name}: {_first_line(error)}; {WAY_OUT}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


source = Hub()
