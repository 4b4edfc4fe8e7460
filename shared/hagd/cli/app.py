"""The command `hagd`: its groups, and the one place where an error becomes an exit code.

Modules of commands are imported here, so none of them imports anything heavy at its top: numpy, grpc, rich's
progress and whatever leads to torch are imported inside the command that needs them, which is what keeps
`hagd --help` under half a second. `# noqa: PLC0415` in this package always stands for this reason.
"""

import os
import sys
import traceback
from typing import Annotated, Any

import typer

import hagd
from hagd.cli import (
    admin,
    circuits,
    dead_letters,
    extraction,
    graphs,
    health,
    runs,
    services,
    stores,
    traces,
    transcoders,
)
from hagd.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, drop_output, say, write_error, write_line
from hagd.deployment.file import read_file
from hagd.errors import HagdError, UsageError
from hagd.telemetry.tracing import configure_tracing

app = typer.Typer(
    name="hagd",
    help="Sparse causal circuits of transformers, extracted hierarchically and verified by intervention.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        write_line(hagd.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # typer calls `_version` before this
        bool,
        # Its variable would be HAGD_VERSION, which others set for their own ends.
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            allow_from_autoenv=False,
            help="Print the version and stop.",
        ),
    ] = False,
) -> None:
    """Every command that reads takes --json. Exit codes: 0 ok, 1 failed, 2 usage, 3 verdict, 4 unavailable."""


extraction.register(app)
services.register(app)
health.register(app)
traces.register(app)
app.add_typer(admin.app, name="admin")
app.add_typer(runs.app, name="run")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(graphs.app, name="graph")
app.add_typer(circuits.app, name="circuit")
app.add_typer(stores.app, name="store")
app.add_typer(transcoders.app, name="transcoder")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run one command; give its exit code.

    A flag goes before the environment (HAGD_EXTRACT_SEED), that before the file `hagd.toml`, that before the default.
    """
    as_json = "--json" in arguments
    configure_tracing("hagd")
    try:
        code: Any = typer.main.get_command(app).main(
            args=arguments,
            prog_name="hagd",
            standalone_mode=False,
            default_map=read_file(),
            auto_envvar_prefix="HAGD",
        )
    except HagdError as error:
        write_error(error, as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout went away, as `head` does.
        drop_output()
        return EXIT_FAILED
    except Exception as error:
        return _unexpected(error, as_json)
    if code == EXIT_INTERRUPTED:
        say("interrupted; issue the same command to go on")
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception, as_json: bool) -> int:
    """Settle what is no error of the tree: wrong usage as the argument parser tells it, or a defect."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        parsed: Any = error  # typer may carry its own copy of click, so its classes cannot be named here
        if type(error).__name__ == "NoArgsIsHelpError":
            say(parsed.format_message())
            return EXIT_USAGE
        write_error(UsageError(parsed.format_message(), "see --help of the command"), as_json=as_json)
        return EXIT_USAGE
    if os.environ.get("HAGD_DEBUG"):
        traceback.print_exc()
    defect = HagdError(f"{type(error).__name__}: {error}", "this is a defect of hagd; HAGD_DEBUG=1 shows where")
    write_error(defect, as_json=as_json)
    return EXIT_FAILED
