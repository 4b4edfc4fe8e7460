"""`hagd transcoder train|eval`: stage 1 on its own.

`hagd transcoder convert` stands in `conversion.py`, `pull` and `push` in `sharing.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hagd.cli.conversion import convert
from hagd.cli.extraction import DryRunFlag, calibrated, run_plan, write_plan
from hagd.cli.options import (
    JsonFlag,
    OutOption,
    QuietFlag,
    RunIdOption,
    StoreOption,
    ThreadsOption,
    UseOption,
    with_settings,
)
from hagd.cli.output import say
from hagd.cli.quality import write_layer, write_quality, write_training
from hagd.cli.sharing import pull, push
from hagd.errors import UsageError

if TYPE_CHECKING:
    from hagd.extraction.settings import Settings

app = typer.Typer(help="Dictionaries of MLPs.", no_args_is_help=True)
app.command()(convert)
app.command()(pull)
app.command()(push)


@app.command()
@with_settings
def train(
    settings: "Settings",
    data: Annotated[
        list[Path],
        typer.Option(
            help="Text to train on in place of a task: a file, lines of JSON, a table, a folder of them, or a dataset "
            "of the hub as hub:OWNER/NAME[/FOLDER]; may be repeated."
        ),
    ] = [],  # noqa: B006  # typer copies it
    mix: Annotated[
        list[str],
        typer.Option(metavar="TASK=SHARE", help="Share of the tokens that are prompts of a task, such as ioi=0.1."),
    ] = [],  # noqa: B006  # typer copies it
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With --data: write the curves for TensorBoard here too.")
    ] = None,
    out: OutOption = None,
    store: StoreOption = None,
    threads: ThreadsOption = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    dry_run: DryRunFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train dictionaries and stop there: those of an extraction, which `hagd extract` in the same folder goes on from,
    or, with --data, those of a model on text."""
    from hagd.extraction.corpus_plan import TRAIN, build_corpus_plan, corpus_folder, parse_mix  # noqa: PLC0415
    from hagd.extraction.plan import build_plan, default_folder, use_of  # noqa: PLC0415
    from hagd.pipeline.stages import find_stage  # noqa: PLC0415

    if tensorboard is not None:
        _check_tensorboard(data)
    if data and use:
        raise UsageError("--data and --use exclude each other", "text is read by stages of its own")
    if mix and not data:
        raise UsageError("--mix needs text to mix prompts into", "add --data")
    if settings.dictionaries is not None:
        raise UsageError("--dictionaries are there already", "measure them: hagd transcoder eval FOLDER --data TEXT")
    if data:
        _say_left_out(data)
        plan = build_corpus_plan(settings, data, parse_mix(mix))
        folder = out or corpus_folder(settings, plan)
    else:
        plan = build_plan(settings, upto="transcoder", use=use_of(use))
        folder = out or default_folder(settings, plan)
    if dry_run:
        tells = find_stage(plan[-1].stage_id).estimate is not None
        measured = calibrated(plan, folder, store=store, threads=threads, quiet=quiet) if data and tells else None
        write_plan(plan, folder, as_json=as_json, measured=measured)
        return
    state = run_plan(folder, plan, TRAIN, store=store, threads=threads, quiet=quiet)
    say(f"dictionaries are in {folder}")
    if data:
        write_training(folder, state.run_id, tensorboard)
    write_quality(folder, state.run_id, as_json=as_json)


def _say_left_out(data: list[Path]) -> None:
    from hagd.corpora.sources import READ_SUFFIXES, told_left_out  # noqa: PLC0415

    # A repository is no folder, so nothing is said of it.
    if others := told_left_out([str(path) for path in data]):
        say(f"{others}; read are {', '.join(READ_SUFFIXES)}")


def _check_tensorboard(data: list[Path]) -> None:
    from hagd.extraction.event_files import require_writer  # noqa: PLC0415

    if not data:
        raise UsageError("--tensorboard shows training on text", "add --data FOLDER")
    require_writer()


@app.command("eval")
def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The folder that --out named; with --data a folder of dictionaries, or hub:OWNER/NAME[/FOLDER].",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(help="Text to measure the dictionaries of a folder on; as of train."),
    ] = [],  # noqa: B006  # typer copies it
    model: Annotated[str | None, typer.Option(help="With --data: their model, a folder, hub id or 'smollm2'.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    any_name: Annotated[
        bool, typer.Option("--any-name", help="Take MODEL for theirs although the file names it otherwise.")
    ] = False,
    seed: Annotated[int, typer.Option(help="With --data: decides what is held out and drawn.")] = 0,
    assign: Annotated[
        list[str],
        typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any field of corpus or corpus-evaluation."),
    ] = [],  # noqa: B006  # typer copies it
    out: OutOption = None,
    store: StoreOption = None,
    threads: ThreadsOption = None,
    run_id: RunIdOption = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Show how often features of this layer fire, and what some fire on most.")
    ] = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the quality of a run's dictionaries on held-out prompts or documents, or, with --data, measure dictionaries
    of any tool on text; --json holds all that is known."""
    if data:
        from hagd.extraction.settings import Settings, parse_assignments  # noqa: PLC0415

        asked = Settings(model=model, revision=revision, seed=seed, overrides=parse_assignments(assign))
        run, run_id = _measured(
            asked, source, data, any_name=any_name, out=out, store=store, threads=threads, quiet=quiet
        )
    else:
        given = {"--model": model, "--revision": revision, "--any-name": any_name, "--set": assign, "--out": out}
        if needless := ", ".join(name for name, value in given.items() if value):
            raise UsageError(f"{needless} is for dictionaries that are measured on text", "add --data")
        run = source
    if layer is None:
        write_quality(run, run_id, as_json=as_json)
    else:
        write_layer(run, run_id, layer, as_json=as_json)


def _measured(
    settings: "Settings",
    dictionaries: Path,
    data: list[Path],
    *,
    any_name: bool,
    out: Path | None,
    store: str | None,
    threads: int | None,
    quiet: bool,
) -> tuple[Path, str]:
    """Measure the dictionaries of a folder on text; give the folder and the id of the run that did."""
    from hagd.extraction.corpus_plan import EVALUATE, build_evaluation_plan, corpus_folder  # noqa: PLC0415
    from hagd.pipeline.folder import is_run  # noqa: PLC0415

    if is_run(dictionaries):
        raise UsageError(
            f"{dictionaries} is a run, and --data is for folders of dictionaries",
            "write them with hagd transcoder convert, or leave --data out to see what was measured",
        )
    _say_left_out(data)
    plan = build_evaluation_plan(settings, dictionaries, data, any_name=any_name)
    folder = out or corpus_folder(settings, plan, "eval")
    state = run_plan(folder, plan, EVALUATE, store=store, threads=threads, quiet=quiet)
    say(f"what was measured is in {folder}")
    return folder, state.run_id
