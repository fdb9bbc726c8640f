"""Whatever stands in a file or a reference: an answer or one line, within 2 seconds and 500 MB; never a traceback.

Suites and short names are fuzzed in `tests/unit/spec/test_fuzz.py`, rows of the ledger in
`tests/unit/ledger/test_rows.py`. The slow profile tries 4,000 inputs for most parsers; YAML and images take longer.
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.data import open_data
from benchmark.data.prompts import class_names, templates
from benchmark.errors import ReliquantError
from benchmark.export.folder import VERSION, read_config
from benchmark.ledger.samples import LENGTH, pack, unpack
from benchmark.models import display_name, resolve
from benchmark.spec import DataSpec, ModelSpec
from benchmark.spec.base import parse_spec
from benchmark.spec.catalogue import catalogue

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=4_000)
PROFILES = pytest.mark.parametrize(
    "profile", [pytest.param(QUICK, id="quick"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)]
)
SECONDS, MEGABYTES = 2.0, 500

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["../x", "/etc", "a\0b"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
LINES = st.lists(st.text(max_size=20), max_size=6).map("\n".join).map(lambda text: text.encode("utf-8", "replace"))
CONTENT = st.one_of(st.binary(max_size=60), LINES)


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """No more than so much on top of what the imports take."""
    for reference in ("demo", "ViT-B-32/openai", "transformers:x"):
        answered(partial(resolve, reference, download=False), seconds=100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


def answered(what: Callable[[], Any], *refusals: type[Exception], seconds: float = SECONDS) -> Any:
    """The answer, or None where it was refused in one line.

    What was slow is asked again: a large process collects its garbage at times, for longer than any answer takes.
    """
    for _ in range(3):
        began, answer, text = time.thread_time(), None, None
        try:
            answer = what()
        except (ReliquantError, *refusals) as error:
            text = str(error)
        if time.thread_time() - began < seconds:
            break
    else:
        pytest.fail(f"three times in a row it took more than {seconds:g} s of CPU")
    assert text is None or len(text.splitlines()) == 1, text
    return answer


@PROFILES
def test_references_of_models(profile: settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = st.sampled_from(
        [
            *(
                "demo",
                "hf-hub:",
                "local-dir:",
                "transformers:",
                "exported:",
                "ViT-B-32",
                "/",
                "..",
                "~",
                "org/name",
                ":",
            ),
            *("openai", "laion2b_s34b_b79k", ".", "\0", "\n", "group:x", "x" * 300, "demo/x.safetensors", "%", "ü"),
        ]
    )
    texts = st.one_of(st.lists(pieces, max_size=4).map("".join), st.text(max_size=30))

    def check(text: str) -> None:
        spec = answered(lambda: parse_spec(ModelSpec, text, "--model"))
        if spec is not None:
            assert display_name(spec.ref)
            answered(lambda: resolve(spec, download=False))

    profile(given(texts)(check))()


@PROFILES
def test_catalogues(profile: settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shipped = tmp_path / "mine.yaml", tmp_path / "shipped.yaml"
    shipped.write_text("imagenet-val: {source: image_folder, path: /x, images: 3, about: one}\n")
    monkeypatch.setattr("benchmark.spec.catalogue.SHIPPED", str(shipped))  # the real one takes 0.1 s to read
    assert list(catalogue()) == ["imagenet-val"]
    fields = st.sampled_from(["source", "path", "about", "hub", "images", "classes", "options", "limit", "corruptions"])
    entries = st.dictionaries(
        st.one_of(st.sampled_from(["imagenet-val", "mine", "../x", ""]), st.text(max_size=5)),
        st.one_of(VALUES, st.dictionaries(fields, VALUES, max_size=4)),
        max_size=3,
    )

    def check(content: bytes) -> None:
        path.write_bytes(content)
        answered(lambda: catalogue([path]))

    made = entries.map(lambda value: yaml.dump(value, allow_unicode=True).encode("utf-8", "replace"))
    settings(profile, max_examples=min(profile.max_examples, 4000))(given(st.one_of(CONTENT, made))(check))()


@PROFILES
def test_files_of_names(profile: settings, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        names = answered(lambda: class_names(str(path)))
        assert names is None or (names and all(name.strip() for name in names))
        found = answered(lambda: templates(str(path)))
        assert found is None or all(template.count("{}") == 1 for template in found)

    profile(given(CONTENT)(check))()


@PROFILES
def test_numbers_of_shards(profile: settings, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    path, spec = tmp_path / "test" / "nshards.txt", DataSpec(source="webdataset", path=str(tmp_path))
    numbers = st.one_of(CONTENT, st.integers().map(lambda n: str(n).encode()), st.sampled_from([b"9" * 5000, b"1_0"]))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert answered(lambda: open_data(spec, "mine")) is None

    profile(given(numbers)(check))()


@PROFILES
def test_image_lists(profile: settings, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    (tmp_path / "a.png").write_bytes(b"x")
    spec = DataSpec(source="image_list", path=str(path), text="none")
    lines = st.lists(
        st.sampled_from(["a.png 0", "a.png", "a.png x", "../a 0", "a\0b 0", "/etc/hosts 0", " 1"]), max_size=3
    )

    def check(content: bytes) -> None:
        path.write_bytes(content)
        data = answered(lambda: open_data(spec, "mine"))
        assert data is None or len(data) == 1

    texts = lines.map("\n".join).map(str.encode)
    settings(profile, max_examples=min(profile.max_examples, 500))(given(st.one_of(CONTENT, texts))(check))()


CONFIG: dict[str, Any] = {
    "format": VERSION, "short_name": "rtn-w4-vision", "quantization": {"method": "rtn", "weight_bits": 4},
    "base": {"ref": "demo", "name": "demo", "family": "ViT", "sha256": "0" * 64, "parameters": 3},
    "layers": {"a": {}}, "same": {}, "files": {}, "logit_scale": 1.0, "logit_bias": 0.0, "provenance": {},
}  # fmt: skip


@PROFILES
def test_exported_folders(profile: settings, tmp_path: Path) -> None:
    path = tmp_path / "reliquant.json"
    field = st.sampled_from([*CONFIG, "more", "tuned", "classes"])
    below = st.sampled_from(["", "ref", "weight_bits", "a", "../x"])

    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert answered(lambda: read_config(tmp_path)) is None
        answered(lambda: resolve(str(tmp_path), download=False))

    def spoiled(name: str, key: str, value: Any) -> bytes:
        inner = CONFIG.get(name)
        changed = {**inner, key: value} if key and isinstance(inner, dict) else value
        return json.dumps({**CONFIG, name: changed}).encode()

    profile(given(st.one_of(CONTENT, st.builds(spoiled, field, below, VALUES)))(check))()


@PROFILES
def test_archives_of_columns(profile: settings) -> None:
    """Damaged archives, and forged ones whose digest was made again."""
    whole = pack({"a": np.arange(9.0), "b|c": np.array(["x", "y"])})
    damage = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=3)

    def check(hits: list[tuple[float, int, bytes]], forged: bool) -> None:
        body = whole[:-LENGTH]
        for place, length, replacement in hits:
            at = int(place * len(body))
            body = body[:at] + replacement + body[at + length :]
        end = hashlib.sha256(body).hexdigest().encode() if forged else whole[-LENGTH:]
        found = answered(lambda: unpack(body + end), ValueError)
        assert found is None or all(isinstance(array, np.ndarray) for array in found.values())
        assert forged or found is None or body == whole[:-LENGTH]

    profile(given(damage, st.booleans())(check))()
