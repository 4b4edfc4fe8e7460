"""`hagd extract`, `estimate`, `stages`, `show`, `verify`, `export`: one run from settings to its report."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hagd.cli.options import (
    JsonFlag,
    OutOption,
    QuietFlag,
    RunFolderArgument,
    RunIdOption,
    StoreOption,
    ThreadsOption,
    UseOption,
    with_settings,
)
from hagd.cli.output import EXIT_OK, EXIT_VERDICT, say, write_fields, write_json, write_line, write_table

if TYPE_CHECKING:
    from hagd.extraction.estimate import StageEstimate
    from hagd.extraction.plan import Settings
    from hagd.pipeline.request import PlanEntry
    from hagd.pipeline.state import RunState

DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print the plan with its likely cost and stop.")]
VERDICT_EXITS: Final = {"verified": EXIT_OK, "refuted": EXIT_VERDICT, "no claim": EXIT_VERDICT}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(extract)
    app.command()(estimate)
    app.command()(stages)
    app.command()(show)
    app.command()(verify)
    app.command()(export)


@with_settings
def extract(
    settings: "Settings",
    out: OutOption = None,
    store: StoreOption = None,
    threads: ThreadsOption = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    dry_run: DryRunFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Extract a circuit and verify it: all stages on this machine. The same command again goes on where it stopped."""
    from hagd.extraction.plan import EXTRACT, build_plan, default_folder, use_of  # noqa: PLC0415

    plan = build_plan(settings, use=use_of(use))
    folder = out or default_folder(settings, plan)
    if dry_run:
        write_plan(plan, folder, as_json=as_json)
        return
    state = run_plan(folder, plan, EXTRACT, store=store, threads=threads, quiet=quiet)
    report_extraction(folder, state, as_json=as_json)


def run_plan(
    folder: Path,
    plan: "tuple[PlanEntry, ...]",
    request_id: str,
    *,
    store: str | None,
    threads: int | None,
    quiet: bool,
) -> "RunState":
    """Run a plan in its folder with progress on stderr; a failed stage raises its error."""
    from hagd.extraction.plan import PRINCIPAL  # noqa: PLC0415
    from hagd.extraction.running import run_request  # noqa: PLC0415
    from hagd.pipeline.request import Request  # noqa: PLC0415
    from hagd.pipeline.shared_store import store_folder  # noqa: PLC0415
    from hagd.telemetry.progress import progress_view  # noqa: PLC0415

    # A path may hold what is no text.
    command = shlex.join(["hagd", *sys.argv[1:]]).encode("utf-8", "backslashreplace").decode()
    request = Request(PRINCIPAL, request_id, plan, labels={"command": command})
    if not quiet:
        say(f"run folder {folder}")
    view = progress_view([entry.stage_id for entry in plan], quiet=quiet)
    state = run_request(folder, request, view=view, store=store_folder(store), threads=threads)
    state.raise_for_failure()
    return state


def report_extraction(folder: Path, state: "RunState", *, as_json: bool) -> None:
    """Write the verdict of an extraction and leave with the exit code that it means."""
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.roles import VERIFICATION  # noqa: PLC0415

    run = OpenRun.open(folder, state.run_id)
    verification = run.data(VERIFICATION) if run.has(VERIFICATION) else {}
    status = state.outcome.status if state.outcome else "running"
    if as_json:
        from hagd.cli.runs import run_to_json  # noqa: PLC0415

        write_json("extraction", {"folder": str(folder), "run": run_to_json(state), "verification": verification})
    else:
        _write_verdict(status, verification)
        say(f"look at it: hagd show {shlex.quote(str(folder))}")
    raise typer.Exit(VERDICT_EXITS.get(status, EXIT_OK))


def _write_verdict(status: str, verification: Mapping[str, Any]) -> None:
    circuit, headline = verification.get("circuit", {}), verification.get("headline", {})
    matched = verification.get("random_control", {}).get("matched", {})
    write_fields(
        {
            "verdict": status,
            "scope": verification.get("scope"),
            "nodes": circuit.get("nodes"),
            "edges": circuit.get("edges"),
            "leaves": circuit.get("leaves"),
            "bits": circuit.get("description_length_bits"),
            "behavioural preservation": headline.get("behavioural_preservation"),
            "95 % interval": headline.get("ci95"),
            "chance": headline.get("chance"),
            "faithfulness": headline.get("faithfulness"),
            "KL in nats": headline.get("kl_nats"),
            "prompts": headline.get("n"),
            "matched random circuits": matched.get("mean"),
            "p": matched.get("p"),
        }
    )
    for reason in verification.get("reasons", []):
        write_line(f"not more, because {reason}")


@with_settings
def estimate(
    settings: "Settings",
    out: OutOption = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    as_json: JsonFlag = False,
) -> None:
    """Print the plan of an extraction with its likely time and memory, and run nothing."""
    from hagd.extraction.plan import build_plan, default_folder, use_of  # noqa: PLC0415

    plan = build_plan(settings, use=use_of(use))
    write_plan(plan, out or default_folder(settings, plan), as_json=as_json)


def calibrated(
    plan: "tuple[PlanEntry, ...]", folder: Path, *, store: str | None, threads: int | None, quiet: bool
) -> "list[StageEstimate]":
    """Estimate a plan by running the stages before its last one, and some of the real work of that."""
    from hagd.extraction.calibration import calibrate_plan  # noqa: PLC0415
    from hagd.pipeline.shared_store import store_folder  # noqa: PLC0415
    from hagd.telemetry.progress import progress_view  # noqa: PLC0415

    view = progress_view([entry.stage_id for entry in plan], quiet=quiet)
    found = calibrate_plan(plan, folder, view=view, store=store_folder(store), threads=threads)
    for it in found:
        if not it.fits:
            say(f"{it.stage_id} would be refused: it takes more memory than there is")
    return found


def write_plan(
    plan: "tuple[PlanEntry, ...]",
    folder: Path,
    *,
    as_json: bool,
    measured: "Sequence[StageEstimate] | None" = None,
) -> None:
    """Write a plan with what it is likely to cost; `measured` stands in place of what is known of such plans."""
    from hagd.extraction.estimate import estimate_plan  # noqa: PLC0415
    from hagd.extraction.plan import plan_to_json  # noqa: PLC0415

    costs = estimate_plan(plan, folder) if measured is None else measured
    if as_json:
        entries = [entry | {"estimate": cost.to_json()} for entry, cost in zip(plan_to_json(plan), costs, strict=True)]
        write_json("plan", {"folder": str(folder), "plan": entries})
        return
    rows = [
        [
            cost.stage_id,
            "there" if cost.cached else "unknown" if cost.seconds is None else f"~{cost.seconds:.0f} s",
            "-" if not cost.peak_bytes else f"~{cost.peak_bytes / 2**20:.0f} MiB",
            dict(entry.config) or "-",
        ]
        for entry, cost in zip(plan, costs, strict=True)
    ]
    write_line(f"run folder {folder}")
    write_table(["stage", "time", "memory", "config"], rows)
    for cost in costs:
        if "size" in cost.parts:
            write_fields(cost.parts["size"])


def stages(
    stage: Annotated[str | None, typer.Argument(help="Only this one.")] = None, as_json: JsonFlag = False
) -> None:
    """List the installed stages: what each needs and gives; of one stage also the fields of its config."""
    from hagd.pipeline.stages import discover_stages, find_stage  # noqa: PLC0415

    specs = [find_stage(stage)] if stage else list(discover_stages().values())
    if as_json:
        described = [
            {
                "id": spec.id,
                "title": spec.title,
                "semantics_version": spec.semantics_version,
                "inputs": list(spec.inputs),
                "outputs": list(spec.outputs),
                "fields": dict(spec.fields()),
            }
            for spec in specs
        ]
        write_json("stages", described)
        return
    rows = [[spec.id, spec.semantics_version, spec.inputs or None, spec.outputs, spec.title] for spec in specs]
    write_table(["stage", "version", "needs", "gives", "title"], rows)
    if stage and (fields := specs[0].fields()):
        write_line()
        write_table([f"--set {stage}.FIELD=VALUE", "default, and what it is for"], [list(it) for it in fields.items()])


def show(
    run: RunFolderArgument,
    run_id: RunIdOption = None,
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page; report.html in the run by default.")
    ] = None,
    cards: Annotated[bool, typer.Option("--cards/--no-cards", help="Feature cards.")] = True,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one self-contained HTML file that shows circuit, evidence and controls; it opens without a network."""
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    result = Extraction.open(run, run_id)
    path = result.to_html(html or result.folder / "report.html", cards=cards)
    if as_json:
        write_json("report", {"path": str(path), "bytes": path.stat().st_size, "verdict": result.verdict})
    else:
        write_line(str(path))
    if open_it:
        import webbrowser  # noqa: PLC0415

        webbrowser.open(path.absolute().as_uri())


def verify(run: RunFolderArgument, run_id: RunIdOption = None, as_json: JsonFlag = False) -> None:
    """Print the evidence of a run. Exit code 3 unless the verdict is `verified`."""
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    result = Extraction.open(run, run_id)
    evidence = result.evidence
    if as_json:
        write_json("verification", evidence)
    else:
        _write_evidence(evidence)
    raise typer.Exit(VERDICT_EXITS.get(str(evidence.get("verdict")), EXIT_VERDICT))


def _write_evidence(evidence: Mapping[str, Any]) -> None:
    _write_verdict(str(evidence.get("verdict")), evidence)
    for name in ("settings", "curve", "negative_controls"):
        if rows := evidence.get(name):
            write_line()
            _write_rows(rows)


def _write_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write mappings as a table of their plain fields."""
    names = list(dict.fromkeys(name for row in rows for name in row if not isinstance(row[name], dict | list)))
    write_table(names, [[row.get(name) for name in names] for row in rows])


def export(
    run: RunFolderArgument,
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; made when missing.")],
    run_id: RunIdOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy what a run made into plain files: one per artifact, JSON or safetensors, with run.json beside them."""
    from hagd.extraction.export import export_run  # noqa: PLC0415
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415

    written = export_run(OpenRun.open(run, run_id), to)
    if as_json:
        write_json("export", [{"path": str(path), "bytes": path.stat().st_size} for path in written])
    else:
        for path in written:
            write_line(str(path))
