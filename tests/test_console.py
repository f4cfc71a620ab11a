"""Progress of work that goes on from an earlier time."""

from __future__ import annotations

import pytest

from rcdm_cli import console
from rcdm_core.progress import in_round_words


def test_what_was_done_earlier_is_progress_but_no_part_of_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 112.0])
    monkeypatch.setattr("rcdm_cli.console.time.monotonic", lambda: next(clock))
    reporter = console.PlainReporter(every=0)
    reporter.start(1100, "training", unit="step", done=1000)
    reporter.update(20)
    reporter.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "training: 1020/1100 step, 2 step/s, 0:40 left"
    assert lines[2] == "training: 1020 step, 20 of them in 0:12"


def test_the_bar_starts_where_the_work_stood() -> None:
    reporter = console.BarReporter()
    reporter.start(10, "training", unit="step", done=4)
    assert reporter.progress is not None and reporter.progress.tasks[0].completed == 4
    assert reporter.progress.tasks[0].speed is None
    reporter.finish()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 seconds"), (80, "80 seconds"), (100, "2 minutes"), (3 * 3600, "3 hours"), (4 * 86400, "4 days"),
     (3e8, "10 years")],
)  # fmt: skip
def test_round_words(seconds: float, words: str) -> None:
    assert in_round_words(seconds) == f"about {words}"
