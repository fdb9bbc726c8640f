"""Progress: a line per phase in logs, rate and time left, bytes of downloads, silence on request."""

from __future__ import annotations

import re

import pytest

from benchmark.utils import progress
from benchmark.utils.hub_client import download_bar
from benchmark.utils.progress import Lines, Silent, Terminal, count, duration, open_progress, rate, shortened, shown


class Clock:
    """Time that passes when told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_long_phase_says_how_far_it_is_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Lines().phase("embed rtn-w8", 1000) as advance:
        for _ in range(10):
            clock.now += 10
            advance(100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "embed rtn-w8: 300 of 1,000, 10/s, 1 min left",
        "embed rtn-w8: 600 of 1,000, 10/s, 40.0 s left",
        "embed rtn-w8: 900 of 1,000, 10/s, 10.0 s left",
        "embed rtn-w8: 1,000 in 2 min (10/s)",
    ]


def test_a_short_phase_says_nothing_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Lines().phase("evaluate", 3) as advance:
        clock.now += 0.5
        advance(3)
    assert capsys.readouterr().err == ""


def test_figures() -> None:
    assert [rate(100, 1), rate(3, 1), rate(1, 8), rate(0, 8)] == ["100/s", "3.0/s", "8.0 s each", "none yet"]
    assert rate(5_000_000, 2, "B") == "2.5 MB/s"
    assert [count(1200), count(999, "B"), count(1_500, "B"), count(12_300_000, "B")] == [
        "1,200",
        "999 B",
        "1.5 kB",
        "12.3 MB",
    ]
    assert [duration(12.34), duration(240), duration(7800)] == ["12.3 s", "4 min", "2 h 10 min"]


def test_a_terminal_gets_bars_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Terminal() as terminal, terminal.phase("embed rtn-w4a8-channel-token-vision", 200) as advance:
        advance(50)
        terminal._bars.refresh()
        terminal.message("a line [above]")
    shown_text = capsys.readouterr().err
    assert "50/200" in shown_text
    assert "/s" in shown_text
    assert "-:--:--" in shown_text or "0:00:" in shown_text
    assert "a line [above]" in shown_text


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize(
    ("title", "total", "unit"),
    [
        ("embed smoothquant-w4a8-channel-token-bits_visual.transformer.resblocks_8-vision+text", 1_000_000, ""),
        ("download laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 9_990_000_000, "B"),
    ],
)
def test_a_bar_stands_on_one_line(
    columns: int, title: str, total: int, unit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beginning and end of a long title are kept, and rate and time left are not pushed out."""
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", str(columns)), ("TERM", "xterm-256color"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with Terminal() as terminal, terminal.phase(title, total, unit) as advance:
        capsys.readouterr()
        advance(total // 2)
        terminal._bars.refresh()
        drawn = capsys.readouterr().err
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r") for line in drawn.splitlines()]
    lines = [line for line in lines if line.strip()]
    assert len({line for line in lines if line.startswith(title[:4])}) == len(set(lines))
    assert max(map(len, lines)) <= columns
    assert title[-3:] in lines[0]
    assert re.search(r"/s +(\d:\d\d:\d\d|-:--:--)$", lines[0].rstrip())


def test_a_short_title_stays_whole() -> None:
    assert shortened("embed fp32", 20) == "embed fp32"
    assert shortened("embed rtn-w4a8-channel-token-vision", 20) == "embed rtn-…en-vision"
    assert [len(shortened("x" * 50, room)) for room in (30, 9, 8, -5)] == [30, 9, 8, 8]


def test_downloads_report_to_what_the_command_line_opened(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """As the hub's client uses a tqdm class: made, updated, described, closed."""
    with open_progress(quiet=False):
        assert isinstance(shown(), Lines)
        with download_bar("org/name")(total=5_000_000, initial=1_000_000, desc="x", unit="B", unit_scale=True) as bar:
            clock.now += 2
            bar.set_postfix_str("fast", refresh=False)
            bar.update(4_000_000)
            bar.refresh()
            assert (bar.n, bar.total) == (5_000_000, 5_000_000)
    assert capsys.readouterr().err == "download org/name: 5.0 MB in 2.0 s (2.5 MB/s)\n"
    assert isinstance(shown(), Silent)


def test_quiet_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(quiet=True) as found, found.phase("embed", 2) as advance:
        clock.now += 100
        advance(2)
        found.message("never seen")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
