"""The table of docs/data-sets.md: `python -m tests.docs.data_sets` prints it, `... --write` puts it into the page."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from benchmark.download.catalogue import catalogue as downloads
from benchmark.download.schema import Download, Source
from benchmark.spec.catalogue import catalogue
from benchmark.utils.progress import count

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data-sets.md"
BEGIN, END = "<!-- from python -m tests.docs.data_sets -->", "<!-- end -->"
HEAD = ("download", "images", "bytes", "terms", "from, in order", "sum")


def table() -> str:
    """One row a download, in the order of the file."""
    rows = [HEAD, *(row(name, download) for name, download in downloads().items())]
    written = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([written[0], "|---" * len(HEAD) + "|", *written[1:]])


def row(name: str, download: Download) -> tuple[str, ...]:
    """The cells of a download."""
    sources = dict.fromkeys(shown(source) for file in download.files.values() for source in file.sources)
    return f"`{name}`", images(download), size(download), download.terms, ", ".join(sources), sums(download)


def images(download: Download) -> str:
    """Numbers as published, of each data set that can be read afterwards."""
    data = catalogue()
    numbers = {data[name].spec.digest(): data[name].images for name in download.provides}
    return " + ".join(f"{number:,}" for number in numbers.values() if number is not None) or "-"


def size(download: Download) -> str:
    """Bytes of the files that are not optional; `+` where more come of which no source states any."""
    files = [file for file in download.files.values() if not file.optional]
    known = sum(file.bytes or 0 for file in files)
    more = any(file.bytes is None for file in files)
    return f"{count(known, 'B')}{' +' if more else ''}" if known else "not stated"


def shown(source: Source) -> str:
    """A source in a few words."""
    if source.hub is not None:
        at = "" if source.revision == "main" else f"@{str(source.revision)[:7]}"
        return f"hub `{source.hub}`{at}"
    if source.url is not None:
        return str(urlsplit(source.url).hostname)
    return "Google Drive (by hand)" if source.drive is not None else "by hand"


def sums(download: Download) -> str:
    """Which sums there are before the hub is asked."""
    found: dict[str, None] = {}
    for file in download.files.values():
        hub = file.sources[0].hub is not None
        found["sha256" if file.sha256 else "md5" if file.md5 else "the hub's" if hub else "none"] = None
    return ", ".join(found)


def page(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
