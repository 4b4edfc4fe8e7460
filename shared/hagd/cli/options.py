"""Options that several commands share, each written once.

`with_settings` gives a command the options that say what to extract, and hands it a `Settings`; `with_security` gives
it those that say how to reach a service, and hands it a `ClientSecurity`.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.errors import UsageError
from hagd.events.topics import Lane
from hagd.pipeline.shared_store import STORE_VARIABLE

if TYPE_CHECKING:
    from hagd.extraction.settings import Settings
    from hagd.rpc.security.channel import ClientSecurity

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that --out named.")]
RunIdOption = Annotated[str | None, typer.Option("--run", help="Which run of a folder with several: start of its id.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run folder; by default one below runs/ that the settings name.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
        envvar=STORE_VARIABLE,
        help="Folder of artifacts that runs share; by default one inside the run folder.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of the worker; all by default.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
UseOption = Annotated[
    list[str], typer.Option("--use", metavar="PLACE=STAGE", help="Put another installed stage into the plan.")
]
LaneOption = Annotated[Lane, typer.Option("--lane", help="batch lets runs for which somebody waits go first.")]
AddressOption = Annotated[str, typer.Option("--address", envvar="HAGD_ADDRESS", help="host:port of a service.")]


def read_settings(
    task: Annotated[str | None, typer.Option(help="modular-addition, parity, sorting, ioi, facts.")] = None,
    modulus: Annotated[int | None, typer.Option(help="Modulus of modular-addition.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or 'smollm2'; algorithmic tasks train their own by default.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="GGUF file in the model's folder or repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompt pairs, one JSON object a line.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of model, dictionaries and verification.")] = 0,
    dictionary: Annotated[
        str | None, typer.Option(help="transcoder, gated or neurons; on text transcoder, cross-layer or hagd-paper.")
    ] = None,
    dictionaries: Annotated[
        str | None,
        typer.Option(help="Dictionaries to take, in any layout that convert reads: a folder, or hub:OWNER/NAME."),
    ] = None,
    resolution: Annotated[str | None, typer.Option(help="feature, or mixed: whole blocks may be nodes.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Circuit sizes in nodes, such as 49,70,106.")] = None,
    budget: Annotated[int | None, typer.Option(help="Causal evaluations that the search may spend.")] = None,
    draws: Annotated[int | None, typer.Option(help="Random circuits of each null.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Preservation that a verified circuit exceeds.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any field of any stage.")
    ] = None,
) -> "Settings":
    """Read the options into settings."""
    from hagd.extraction.settings import Settings, parse_assignments  # noqa: PLC0415

    return Settings(
        task=task,
        model=model,
        gguf=gguf,
        revision=revision,
        prompts=prompts,
        modulus=modulus,
        seed=seed,
        dictionary=dictionary,
        dictionaries=dictionaries,
        resolution=resolution,
        sizes=_sizes(sizes),
        budget=budget,
        draws=draws,
        threshold=threshold,
        overrides=parse_assignments(assign or []),
    )


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise UsageError(f"cannot read the sizes {text!r}", "write them like 49,70,106") from error


def read_security(
    ca_file: Annotated[
        Path | None, typer.Option(envvar="HAGD_CA_FILE", help="Who signs the certificate of the service, PEM.")
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option(envvar="HAGD_CERT_FILE", help="Certificate to show to the service, PEM.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(envvar="HAGD_KEY_FILE", help="Its private key, PEM.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="HAGD_TOKEN_FILE", help="File with a token, read for every call.")
    ] = None,
) -> "ClientSecurity":
    """Read the options into what a connection is opened with. Secrets stand in files, never in the options."""
    from hagd.rpc.security.channel import ClientSecurity  # noqa: PLC0415

    return ClientSecurity(ca_file, cert_file, key_file, token_file)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `settings` of a command by the options that make it up."""
    return _spread(command, "settings", read_settings)


def with_security(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `security` of a command by the options that make it up."""
    return _spread(command, "security", read_security)


def _spread(command: Callable[..., None], name: str, read: Callable[..., Any]) -> Callable[..., None]:
    """Replace one parameter of a command by those of the function that makes it."""
    shared = list(inspect.signature(read).parameters.values())
    own = [it for it in inspect.signature(command).parameters.values() if it.name != name]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        made = read(**{it.name: values.pop(it.name) for it in shared})
        command(**{name: made}, **values)

    # What typer reads instead of the wrapper's own signature.
    parameters = [it.replace(kind=it.KEYWORD_ONLY) for it in [*shared, *own]]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {it.name: it.annotation for it in [*shared, *own]}
    del wrapper.__wrapped__
    return wrapper
