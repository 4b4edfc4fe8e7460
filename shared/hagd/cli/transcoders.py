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
    RunFolderArgument,
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

    if tensorboard is not None:
        _check_tensorboard(data)
    if data and use:
        raise UsageError("--data and --use exclude each other", "text is read by stages of its own")
    if mix and not data:
        raise UsageError("--mix needs text to mix prompts into", "add --data")
        _say_left_out(data)
    if data:
        plan = build_corpus_plan(settings, data, parse_mix(mix))
        folder = out or corpus_folder(settings, plan)
    else:
        plan = build_plan(settings, upto="transcoder", use=use_of(use))
        folder = out or default_folder(settings, plan)
    if dry_run:
        measured = calibrated(plan, folder, store=store, threads=threads, quiet=quiet) if data else None
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
    run: RunFolderArgument,
    run_id: RunIdOption = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Show how often features of this layer fire, and what some fire on most.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the quality of a run's dictionaries on held-out prompts or documents; --json holds all that is known."""
    if layer is None:
        write_quality(run, run_id, as_json=as_json)
    else:
        write_layer(run, run_id, layer, as_json=as_json)
