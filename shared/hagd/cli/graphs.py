"""`hagd graph build|export`: the attribution graph of a task and its hierarchy, or the graph of one prompt.

What is done with the graph of one prompt stands in `tracing.py`.
"""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hagd.cli.extraction import DryRunFlag, run_plan, write_plan
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
from hagd.cli.output import say, write_fields, write_json, write_table, write_text
from hagd.cli.tracing import build_trace, prune, qk, split_by_head, take_in, write_neuronpedia
from hagd.errors import UsageError

if TYPE_CHECKING:
    from hagd.extraction.settings import Settings

app = typer.Typer(help="Attribution graphs and their hierarchies.", no_args_is_help=True)
app.command("import")(take_in)
app.command()(prune)
app.command("heads")(split_by_head)
app.command()(qk)


class GraphFormat(StrEnum):
    """What other tools read."""

    json = "json"
    graphml = "graphml"
    dot = "dot"
    csv = "csv"
    neuronpedia = "neuronpedia"


FormatOption = Annotated[GraphFormat, typer.Option("--format", "-f", help="File format.")]
ToOption = Annotated[Path | None, typer.Option("--to", "-o", help="File to write; stdout by default.")]


@app.command()
@with_settings
def build(
    settings: "Settings",
    text: Annotated[str | None, typer.Option(help="One prompt to trace, in place of a task.")] = None,
    target: Annotated[
        list[str], typer.Option(help="Of --text: token that the graph ends at; the likeliest by default. Repeatable.")
    ] = [],  # noqa: B006  # typer copies it
    against: Annotated[str | None, typer.Option(help="Of --text: token whose logit is taken away.")] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Of --text: features with a node, by influence; all by default.")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Of --text: heads are nodes, one at every position.")] = False,
    vector: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="Of --text: direction that the graph ends at: .json, .npy or .safetensors. Repeatable."
        ),
    ] = [],  # noqa: B006  # typer copies it
    out: OutOption = None,
    store: StoreOption = None,
    threads: ThreadsOption = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    dry_run: DryRunFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Build the attribution graph of a task and its hierarchy, and stop there; or, with --text, that of one prompt."""
    from hagd.extraction.plan import build_plan, default_folder, use_of  # noqa: PLC0415
    from hagd.extraction.prompt_plan import PromptSettings  # noqa: PLC0415
    from hagd.extraction.vector_files import read_vectors  # noqa: PLC0415

    if text is not None:
        if use:
            raise UsageError("--text and --use exclude each other", "a prompt is traced by stages of its own")
        asked = PromptSettings(text, tuple(target), against, nodes, heads, read_vectors(vector))
        build_trace(settings, asked, out, store=store, threads=threads, dry_run=dry_run, quiet=quiet, as_json=as_json)
        return
    if target or vector or against is not None or nodes is not None or heads:
        raise UsageError("--target, --vector, --against, --nodes and --heads belong to --text", "add --text")
    plan = build_plan(settings, upto="coarsening", use=use_of(use))
    folder = out or default_folder(settings, plan)
    if dry_run:
        write_plan(plan, folder, as_json=as_json)
        return
    state = run_plan(folder, plan, "graph-build", store=store, threads=threads, quiet=quiet)
    say(f"the graph is in {folder}")
    _write_summary(folder, state.run_id, as_json=as_json)


def _write_summary(folder: Path, run_id: str | None, *, as_json: bool) -> None:
    from hagd.extraction.result import Extraction  # noqa: PLC0415
    from hagd.graphs.scores import score_task_graph  # noqa: PLC0415

    result = Extraction.open(folder, run_id)
    graph, hierarchy = result.graph, result.hierarchy
    scores = score_task_graph(graph)
    kinds: dict[str, int] = {}
    for node in graph.nodes:
        kinds[node.kind] = kinds.get(node.kind, 0) + 1
    levels = [
        {"level": number, "groups": level.n_groups, "largest": level.largest, "cut": level.normalised_cut}
        for number, level in enumerate(hierarchy.levels)
    ]
    if as_json:
        content = {"nodes": graph.n_nodes, "edges": len(graph.weight), "by_kind": kinds, "levels": levels}
        content |= asdict(scores)
        write_json("graph", content)
        return
    write_fields({"nodes": graph.n_nodes, "edges": len(graph.weight), "prompts": graph.n_prompts} | kinds)
    write_fields({"replacement": scores.replacement, "completeness": scores.completeness})
    write_table(["level", "groups", "largest", "cut"], [list(level.values()) for level in levels])


@app.command()
def export(
    run: RunFolderArgument,
    form: FormatOption = GraphFormat.json,
    to: ToOption = None,
    run_id: RunIdOption = None,
) -> None:
    """Write the attribution graph for other tools; `neuronpedia` is for that of one prompt."""
    from hagd.extraction.drawing import draw_network, network_of_graph  # noqa: PLC0415
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    if form is GraphFormat.neuronpedia:
        write_neuronpedia(run, to, run_id)
        return
    write_text(draw_network(network_of_graph(Extraction.open(run, run_id).graph), form.value), to)
