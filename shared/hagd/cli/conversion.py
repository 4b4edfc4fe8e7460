"""`hagd transcoder convert`: transcoders of other tools, or those that a run trained, in a layout for sharing."""

from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.options import JsonFlag, RunIdOption
from hagd.cli.output import say, write_fields, write_json, write_table
from hagd.errors import InvalidInputError, RunError

if TYPE_CHECKING:
    from hagd.dictionaries.formats.conversion import Converted
    from hagd.dictionaries.formats.found import Found
    from hagd.models.loading import LoadedModel

LONGEST_TEXT_BYTES = 1 << 24


class Layout(StrEnum):
    """What can be written."""

    hf = "hf"
    circuit_tracer = "circuit-tracer"


class Space(StrEnum):
    """What an encoder reads; see `InputSpace`."""

    mlp_input = "mlp-input"
    normalised = "normalised"
    hook_normalized = "hook-normalized"
    residual = "residual"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of transcoders of another tool, or of a run that trained some, or hub:OWNER/NAME[/FOLDER].",
        ),
    ],
    model: Annotated[str, typer.Option("--model", help="Their model: folder, hub id or 'smollm2'.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not hold anything yet.")],
    to: Annotated[Layout, typer.Option("--to", help="Layout to write.")] = Layout.hf,
    source_format: Annotated[str | None, typer.Option("--from", help="Format of SOURCE; found out by default.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.")] = None,
    space: Annotated[Space | None, typer.Option("--space", help="What they read, where the file is wrong.")] = None,
    probe_text: Annotated[
        Path | None,
        typer.Option("--probe-text", metavar="FILE", help="Text to measure them on before they are written."),
    ] = None,
    any_name: Annotated[
        bool, typer.Option("--any-name", help="Take MODEL for theirs although the file names it otherwise.")
    ] = False,
    unsafe_pickle: Annotated[
        bool,
        # Asked for each time: what a shell was once told must not open a file that comes later.
        typer.Option(
            "--unsafe-pickle",
            allow_from_autoenv=False,
            help="Open pickles for their tensors; only from whom you trust.",
        ),
    ] = False,
    run_id: RunIdOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write transcoders of another tool, or those of a run, as dictionaries of the MLP's own input, for the hub or for
    circuit-tracer."""
    from hagd.dictionaries.formats import conversion  # noqa: PLC0415
    from hagd.dictionaries.formats.registry import read_folder  # noqa: PLC0415
    from hagd.dictionaries.formats.sharing import dictionaries_at  # noqa: PLC0415
    from hagd.models.loading import load_model  # noqa: PLC0415
    from hagd.pipeline.folder import is_run  # noqa: PLC0415

    conversion.require_empty(out)
    text = None if probe_text is None else _read_text(probe_text)
    folder = dictionaries_at(source, source_format, tell=say)
    found = read_run(folder, run_id) if is_run(folder) else read_folder(folder, source_format, pickles=unsafe_pickle)
    if space is not None:
        found = replace(found, space=space.value)
    loaded = load_model(model, revision, tell=say)
    converted = conversion.convert(found, loaded, to.value, out, text=text, any_name=any_name)
    if text is None:
        say("not measured: --probe-text FILE would tell whether they read what the file says")
    layers = _layers(converted)
    if to is Layout.circuit_tracer and any(layer["k"] is not None for layer in layers):
        say("the files are TopK: circuit-tracer up to 0.5.0 takes them for ReLU, later ones read `activation` and `k`")
    _tell(found, loaded, converted, layers, out, as_json=as_json)


def read_run(folder: Path, run_id: str | None = None) -> "Found":
    """Read the dictionaries that a run trained, with the model that it names and what it measured.

    Raises:
        NotARunError, UnknownNameError, RunError: there is no such run, or it has no dictionaries yet.
        CorruptArtifactError: they are damaged.
    """
    from hagd.dictionaries.formats.found import Found  # noqa: PLC0415
    from hagd.dictionaries.storage import any_dictionaries_from_document  # noqa: PLC0415
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415
    from hagd.extraction.roles import DICTIONARIES, MODEL  # noqa: PLC0415

    run = OpenRun.open(folder, run_id)
    document, provenance = run.document(DICTIONARIES), run.document(MODEL).content.get("provenance")
    if provenance is None:
        raise RunError("this run trained no dictionaries", "name the folder of a `hagd transcoder train`")
    source = provenance.get("source", {})
    return Found(
        source_format="hagd-run",
        content=any_dictionaries_from_document(document),
        space="mlp-input",
        base_model=source.get("name"),
        revision=source.get("revision"),
        digest=provenance.get("digest"),
        measured=document.content.get("metrics", {}).get("layers", ()),
    )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_TEXT_BYTES).decode("utf-8", errors="ignore")
    except OSError as error:
        raise InvalidInputError(f"the text cannot be read: {error}", "give a file of plain text") from error


def _layers(converted: "Converted") -> list[dict[str, Any]]:
    from hagd.dictionaries.cross_layer import CrossLayerTranscoder  # noqa: PLC0415

    content, measured = converted.dictionaries, {it.layer: asdict(it) for it in converted.quality}
    if isinstance(content, CrossLayerTranscoder):
        jumps = content.threshold is not None
        told = {layer: {"features": len(it), "k": content.k, "jumps": jumps} for layer, it in enumerate(content.b_enc)}
    else:
        told = {
            layer: {"features": it.n_features, "k": it.k, "jumps": it.threshold is not None}
            for layer, it in content.items()
        }
    return [{"layer": layer, **it, **measured.get(layer, {})} for layer, it in told.items()]


def _tell(
    found: "Found",
    loaded: "LoadedModel",
    converted: "Converted",
    layers: list[dict[str, Any]],
    out: Path,
    *,
    as_json: bool,
) -> None:
    together: dict[str, Any] = {
        "format": found.source_format,
        "space": converted.space,
        "model": loaded.name,
        "revision": loaded.revision,
        "digest": loaded.digest,
        "out": str(out),
    }
    if as_json:
        write_json("transcoder-conversion", together | {"layers": layers})
        return
    write_fields(together)
    write_table(list(layers[0]), [list(layer.values()) for layer in layers])
