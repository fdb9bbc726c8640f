"""Fuzzing what strangers write: any input gives a valid result or one clear line, and nothing else.

The quick profile runs with `make test`, the slow one (`-m slow`) tries five to thirty times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.engine.requested import parse_size, with_overrides
from benchmark.errors import ReliquantError, SpecError
from benchmark.quantization import parse, quantizers
from benchmark.spec import SuiteSpec, check_name
from benchmark.spec.groups import groups as model_groups
from benchmark.spec.short_name import LONGEST
from benchmark.spec.suite import FOLDER, MOST_ALTERNATIVES, expand_all, expand_braces, load_suite, narrow, suite_names
from benchmark.spec.yaml_file import LARGEST_FILE, load_yaml

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=600)
MANY = 4_000
"""Examples of the slow run where one takes a millisecond; a whole suite takes thirty."""
SUITES = [(FOLDER / f"{name}.yaml").read_text() for name in suite_names()]

TOKENS = st.sampled_from(
    [
        *("rtn", "gptq", "awq", "fp32", "bnb-nf4", "w4", "w4a8", "a8", "w0", "w99", "w9999999999", "tensor", "channel"),
        *("token", "g128", "g0", "g99999999999", "asym", "actasym", "vision", "text", "vision+text", "skip_", "bits__"),
        *("skip_%2e%2e%2f", "bits_x_4", "alpha_0.5", "alpha_nan", "alpha_1e999", "_", "-", "--", "%00", "../..", "ü"),
    ]
)
SHORT_NAMES = st.one_of(st.lists(TOKENS, max_size=9).map("-".join), st.text(max_size=40))
PATHS = ["demo", "scenes", "../../etc/passwd", "/etc/passwd", "fp32", "x" * 300, "a\nb", "\x00", "group:x"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(PATHS),
)
FIELDS = st.sampled_from(
    [
        *("name", "version", "description", "models", "quantizations", "calibration", "validation", "data", "tasks"),
        *("headline", "limit", "source", "path", "split", "classes", "templates", "text", "corruptions", "severities"),
        *("base", "catalogue", "roles", "options", "test", "id", "ood", "scenes", "zero_shot", "ref"),
    ]
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(FIELDS, SCALARS), inner, max_size=5))


CONTENT = st.recursive(SCALARS, _nested, max_leaves=25)


def one_clear_line(what: Callable[[], Any]) -> Any:
    """The result, or None where it was refused as it should be."""
    try:
        return what()
    except ReliquantError as error:
        message = str(error)
    assert message
    assert len(message.splitlines()) == 1
    return None


def write(folder: Path, content: bytes) -> str:
    path = folder / "suite.yaml"
    path.write_bytes(content)
    return str(path)


def check_bytes(folder: Path, content: bytes) -> None:
    loaded = one_clear_line(lambda: load_suite(write(folder, content)))
    if loaded is not None:
        assert SuiteSpec.model_validate(loaded.model_dump()) == loaded
        check_name(loaded.name, "name")


def check_damage(folder: Path, suite: str, damage: list[tuple[float, int, bytes]]) -> None:
    content = suite.encode()
    for place, length, replacement in damage:
        at = int(place * len(content))
        content = content[:at] + replacement + content[at + length :]
    check_bytes(folder, content)


def check_structure(folder: Path, field: str, content: Any) -> None:
    suite = yaml.safe_load(SUITES[0])
    suite[field] = content
    check_bytes(folder, yaml.dump(suite, allow_unicode=True).encode("utf-8", "replace"))
    check_bytes(folder, yaml.dump(content).encode("utf-8", "replace"))


def check_short_name(text: str) -> None:
    spec = one_clear_line(lambda: parse(text))
    if spec is not None:
        assert parse(spec.name) == spec
        assert "/" not in spec.name
        assert spec.method in quantizers.names()


def calls(read: Callable[[str], Any]) -> Callable[[str], None]:
    def checked(text: str) -> None:  # hypothesis wants a function with a name and no defaults
        one_clear_line(lambda: read(text))

    return checked


def many(profile: settings) -> settings:
    """The profile, with as many examples as a fast parser can have."""
    return settings(profile, max_examples=MANY) if profile is SLOW else profile


DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=4)
SIZES = st.one_of(st.text(max_size=12), st.sampled_from(["1e999GB", "9" * 400 + "TB", "0", "-1", "20 gb", "٣GB"]))
PROFILES = [pytest.param(QUICK, id="quick"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)]


@pytest.mark.parametrize("profile", PROFILES)
def test_any_bytes_as_a_suite(tmp_path: Path, profile: settings) -> None:
    many(profile)(given(st.binary(max_size=200))(lambda content: check_bytes(tmp_path, content)))()
    profile(given(st.sampled_from(SUITES), DAMAGE)(lambda suite, hits: check_damage(tmp_path, suite, hits)))()


@pytest.mark.parametrize("profile", PROFILES)
def test_any_structure_as_a_suite(tmp_path: Path, profile: settings) -> None:
    profile(given(FIELDS, CONTENT)(lambda field, content: check_structure(tmp_path, field, content)))()


@pytest.mark.parametrize("profile", PROFILES)
def test_any_text_as_a_short_name(profile: settings) -> None:
    braces, overrides = st.text(alphabet="rtn-{},w48", max_size=30), st.text(max_size=20)
    many(profile)(given(SHORT_NAMES)(check_short_name))()
    for texts, read in (
        (braces, expand_braces),
        (overrides, lambda text: with_overrides("rtn-w4-vision", [text])),
        (SIZES, lambda text: parse_size(text, "--pixel-cache")),
    ):
        profile(given(texts)(calls(read)))()


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LAUGHS, "aliases written out"),
        (MERGES, "aliases written out"),
        ("name: &a [*a]", "contains itself"),
        ("name: &a {x: *a}", "contains itself"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("name: !!python/name:os.system x", "not valid YAML"),
        ("name: !include /etc/passwd", "not valid YAML"),
        ("a: 1\nname: !!python/object/new:os.system [x]", "suite.yaml: not valid YAML at line 2, column 7"),
        ("a: 1\nb: 2\nwhen: 2020-13-45", "suite.yaml: not valid YAML at line 3, column 7 (no timestamp: "),
        ("when: !!timestamp never", "suite.yaml: not valid YAML at line 1, column 7 (no timestamp: "),
        ("yes: !!bool perhaps", "suite.yaml: not valid YAML at line 1, column 6 (no bool: "),
        ("n: !!int many", "suite.yaml: not valid YAML at line 1, column 4 (no int: "),
        ("version: " + "9" * 5000, "suite.yaml: not valid YAML at line 1, column 10 (no int: "),
        ("version: 0x" + "f" * 20, "out of range"),
        ("- " * 3000, "too deeply"),
        ("x: " + "y" * LARGEST_FILE, "larger than"),
    ],
    ids=lambda value: value[:24],
)
def test_hostile_yaml_is_refused_quickly(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:  # without the limits some of them would never end
        load_yaml(Path(write(tmp_path, content.encode())))
    assert says in str(caught.value)


def test_plain_anchors_are_welcome(tmp_path: Path) -> None:
    path = write(tmp_path, b"base: &b {source: demo, split: test}\nmore: {<<: *b, limit: 3}\nsame: *b")
    assert load_yaml(Path(path))["more"] == {"source": "demo", "split": "test", "limit": 3}


def test_braces_that_stand_for_too_much() -> None:
    assert len(expand_braces("{a,b}" * 13)) == 8192
    for text in ("{a,b}" * 14, "{a,b}" * 5000, "{" + "a," * MOST_ALTERNATIVES + "a}"):
        with pytest.raises(SpecError, match="alternatives"):
            expand_braces(text)


def test_braces_that_stand_for_too_much_together(tmp_path: Path) -> None:
    """The sum counts: thousands of patterns that are each within the limit."""
    patterns = ["rtn-w{3,4,5,6}-g{" + ",".join(map(str, range(1000))) + "}-vision"] * 3
    with pytest.raises(SpecError, match="quantizations: more than 10000 alternatives together"):
        expand_all(patterns)
    with pytest.raises(SpecError, match="alternatives together"):
        narrow(load_suite("demo"), quantizations=patterns)
    suite = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    content = yaml.dump({**suite, "quantizations": patterns}).encode()
    with pytest.raises(SpecError, match="alternatives together"):
        load_suite(write(tmp_path, content))
    assert len(expand_all(patterns[:2])) == 8000


def test_groups_of_models_that_stand_for_too_much_together(tmp_path: Path) -> None:
    suite = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    groups = [f"group:{next(iter(model_groups()))}"] * (MOST_ALTERNATIVES + 1)
    with pytest.raises(SpecError, match="models: more than 10000 together"):
        load_suite(write(tmp_path, yaml.dump({**suite, "models": groups}).encode()))


NAMES = ["../x", "/x", "a/b", "..", ".", "", ".hidden", "x" * 65, "a\n", "a\x00", "ü", "a b", "~"]


def test_a_short_name_has_an_end() -> None:
    with pytest.raises(SpecError, match="at most"):
        parse("rtn-w4-" + "skip_x-" * LONGEST + "vision")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    from search.settings import check_new

    with pytest.raises(SpecError):
        check_name(name, "--name")
    with pytest.raises(SpecError):
        check_new(None, name)  # type: ignore[arg-type]
    suite = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    for field in ("name", "data", "tasks", "validation"):
        spoiled = {**suite, field: name if field == "name" else {**suite[field], name: {"scenes": {"test": "scenes"}}}}
        assert one_clear_line(lambda s=spoiled: load_suite(write(tmp_path, yaml.dump(s).encode()))) is None or (
            field == "tasks"  # a task of that name is looked for when the plan is made, and not found
        )
    spoiled = {**suite, "models": [{"ref": "demo", "name": name}]}
    assert one_clear_line(lambda: load_suite(write(tmp_path, yaml.dump(spoiled).encode()))) is None
