"""Files of the Hugging Face hub: from the local cache, or downloaded once, with errors within seconds."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmark.errors import ModelError
from benchmark.utils.progress import shown

WAY_OUT = (
    "set HF_HUB_OFFLINE=1 to use only what is cached, or give a folder with --model local-dir:PATH "
    "(open_clip_config.json and open_clip_model.safetensors)"
)


def cached(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files that lies in the local cache; no network is used.

    Raises:
        ModelError: no repository can have that name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in names:
        try:
            path = try_to_load_from_cache(repository, name)
        except HFValidationError as error:
            raise ModelError(f"{repository}: {str(error).splitlines()[0]}") from None
        if isinstance(path, str):
            return Path(path)
    return None


def fetch(repository: str, names: Sequence[str], *, download: bool = True) -> Path:
    """The first of these files that exists: cached, or downloaded into the cache.

    Args:
        repository: `ORG/NAME`.
        names: alternatives, the preferred first.
        download: whether the network may be used.

    Raises:
        ModelError: not cached and the hub cannot be reached (within seconds), or it has no such repository or file.
    """
    found = cached(repository, names)
    if found is not None:
        return found
    if not download:
        raise ModelError(f"{repository}: {names[0]} is not in the local cache")
    _check_reachable(repository)
    for name in names:
        path = _download(repository, name)
        if path is not None:
            return path
    raise ModelError(f"{repository}: the hub has no file {' or '.join(names)} there")


def fetch_folder(repository: str, names: Sequence[str], *, download: bool = True) -> Path:
    """The cached snapshot of a repository with those of these files that it has.

    Raises:
        ModelError: as `fetch`; also if the repository has none of the files.
    """
    found = cached(repository, names)
    if found is not None:
        return found.parent
    if not download:
        raise ModelError(f"{repository}: {names[0]} is not in the local cache")
    _check_reachable(repository)
    paths = [path for path in (_download(repository, name) for name in names) if path is not None]
    if not paths:
        raise ModelError(f"{repository}: the hub has no file {' or '.join(names)} there")
    return paths[0].parent


def _download(repository: str, name: str) -> Path | None:
    """Download one file; None if the repository lacks it."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, etag_timeout=10, tqdm_class=download_bar(repository)))
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{repository}: {name} cannot be fetched ({_line(error)}); {WAY_OUT}") from None
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError:
        raise ModelError(f"{repository}: gated; accept its terms on the hub and run `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"{repository}: no such repository on the hub (or it is private)") from None
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repository}: {name} cannot be fetched ({_line(error)}); {WAY_OUT}") from None


def download_bar(title: str) -> Any:
    """A replacement for tqdm in the hub's client that reports received bytes to our progress and draws nothing."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            self._open = ExitStack()
            self._advance = self._open.enter_context(shown().phase(f"download {title}", int(self.total or 0), "B"))
            self._advance(int(self.n))

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            self._advance(int(n or 0))

        def close(self) -> None:
            self._open.close()

    return Bar


def _check_reachable(repository: str, timeout: float = 5.0) -> None:
    """Send one short request, since the hub's own client retries for half a minute.

    Raises:
        ModelError: offline mode is on, or no answer comes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{repository}: not in the local cache, and HF_HUB_OFFLINE=1 forbids the download; unset it, or give a "
            "folder with --model local-dir:PATH"
        )
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"{repository}: not in the local cache, and {constants.ENDPOINT} cannot be reached ({reason}); {WAY_OUT}"
        ) from None


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
