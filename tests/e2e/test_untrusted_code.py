"""A model, an export or a data set that somebody else made never runs code here, whatever its files ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.errors import ModelError
from benchmark.models.pretrained import architectures
from benchmark.models.untrusted import check_open_clip, guarded
from tests.e2e.vectors_code import VECTORS, attempt

pytest.importorskip("transformers")
QUICK = frozenset(  # the others are tried by tests/e2e/replay_holes.py
    (
        *("open_clip: tokenizer_kwargs.trust_remote_code", "open_clip: text tower, auto_map, unknown model_type"),
        *("transformers: auto_map, unknown model_type", "export: auto_map, with digests"),
        *("export: a tokenizer added to base/", "hub data: org/pictures, a folder here"),
    )
)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_no_code_is_run(name: str, tmp_path: Path) -> None:
    vector = next(vector for vector in VECTORS if vector.name == name)
    outcome = attempt(vector, tmp_path)
    assert outcome == "inert" if vector.says is None else outcome.startswith("refused: ")


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}], ids=["asks", "trusts"])
def test_the_second_wall_holds_without_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    """A call that a list missed can neither ask nor import."""
    from transformers import AutoConfig

    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()")
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}')
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a question was asked"))
    with (
        pytest.raises(ModelError, match=r"never run|must be executed|requires you to execute"),
        guarded("model", "cannot be built"),
    ):
        AutoConfig.from_pretrained(tmp_path, **options)
    assert not canary.exists()


def test_every_vector_has_a_name_of_its_own() -> None:
    assert len({vector.name for vector in VECTORS}) == len(VECTORS)


def test_the_lists_know_what_open_clip_ships() -> None:
    for architecture, file in architectures().items():
        check_open_clip(json.loads(file.read_text()), architecture)
