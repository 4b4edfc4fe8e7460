"""Progress for people: bars on a terminal, few lines elsewhere."""

import io

from rich.console import Console

from hagd.extraction.running import StageProgress
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import RunState, StageState
from hagd.telemetry.progress import LineProgress, LiveProgress, SilentProgress, progress_view


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def update(self, stage_id: str, done: float, total: float, message: str) -> None:  # noqa: ARG002
        self.heard.append((stage_id, "update"))

    def finish(self, stage_id: str, note: str) -> None:
        self.heard.append((stage_id, f"finish {note}".strip()))


def test_lines_come_at_most_every_few_seconds_per_stage() -> None:
    now = [0.0]
    out = io.StringIO()
    lines = LineProgress(out, clock=lambda: now[0])
    for step in range(11):
        now[0] = step
        lines.update("subject", step, 10, "training")
    lines.finish("subject", "3.0 s")
    lines.finish("subject", "again")
    lines.update("subject", 1, 10, "late")
    assert out.getvalue().splitlines() == [
        "subject         0 %  training",
        "subject        50 %  training",
        "subject       100 %  training",
        "subject       done   3.0 s",
    ]


def test_bars_show_all_stages_from_the_start() -> None:
    out = io.StringIO()
    with LiveProgress(["subject", "transcoder"], Console(file=out, force_terminal=True, width=120)) as bars:
        bars.update("subject", 1, 2, "half [/way] there")
        bars.refresh()
        bars.finish("subject", "3.0 s")
    assert "subject" in out.getvalue()
    assert "transcoder" in out.getvalue()
    assert "✓" in out.getvalue()
    assert "half [/way] there" in out.getvalue()


def test_a_pipe_gets_lines_and_quiet_gets_nothing() -> None:
    out = io.StringIO()
    assert isinstance(progress_view(["subject"], stream=out), LineProgress)
    assert isinstance(progress_view(["subject"], quiet=True, stream=out), SilentProgress)


def test_a_stage_is_finished_when_a_later_one_speaks() -> None:
    view = Recorder()
    progress = StageProgress(["subject", "transcoder", "coarsening"], view)
    progress.update("subject", 1, 1, "already computed")
    progress.update("transcoder", 1, 2, "")
    progress.update("coarsening", 1, 2, "")
    progress.update("transcoder", 2, 2, "late")
    request = Request("x", "y", (PlanEntry("subject", 1),))
    states = (StageState("subject", "cached"), StageState("coarsening", "done", seconds=3.0, peak_rss_bytes=2**20))
    progress.end(RunState("z", request, 0, states, None))
    assert view.heard == [
        ("subject", "finish already computed"),
        ("transcoder", "update"),
        ("transcoder", "finish"),
        ("coarsening", "update"),
        ("subject", "finish already computed"),
        ("coarsening", "finish 3.0 s, 1 MiB"),
    ]
