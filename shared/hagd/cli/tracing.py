"""`hagd graph import|prune|heads|qk`, and what `build --text` and `export` do with the trace of one prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.extraction import calibrated, run_plan, write_plan
from hagd.cli.options import JsonFlag, OutOption, QuietFlag, RunFolderArgument, RunIdOption, StoreOption
from hagd.cli.output import say, write_fields, write_json, write_line, write_table, write_text
from hagd.errors import UsageError

if TYPE_CHECKING:
    from hagd.attribution.trace import Trace
    from hagd.extraction.prompt_plan import PromptSettings
    from hagd.extraction.settings import Settings

NodeShareOption = Annotated[float, typer.Option("--nodes-share", help="Share of all influence that nodes keep.")]
EdgeShareOption = Annotated[float, typer.Option("--edges-share", help="Share of it that the edges among them keep.")]
_SHOWN = 20


def build_trace(
    settings: "Settings",
    asked: "PromptSettings",
    out: Path | None,
    *,
    store: str | None,
    threads: int | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Trace one prompt, and write what was found; or only what that would take."""
    from hagd.extraction.prompt_plan import TRACE, build_prompt_plan, prompt_folder  # noqa: PLC0415

    plan = build_prompt_plan(settings, asked)
    folder = out or prompt_folder(settings, plan)
    if dry_run:
        measured = calibrated(plan, folder, store=store, threads=threads, quiet=quiet)
        write_plan(plan, folder, as_json=as_json, measured=measured)
        return
    state = run_plan(folder, plan, TRACE, store=store, threads=threads, quiet=quiet)
    say(f"the graph is in {folder}")
    _write_summary(folder, state.run_id, as_json=as_json)


def take_in(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt file of circuit-tracer, or Neuronpedia's JSON.")],
    out: OutOption = None,
    store: StoreOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Take in the graph of one prompt that another tool made, and build its hierarchy."""
    from hagd.extraction.plan import RUNS_FOLDER, digest_of_plan  # noqa: PLC0415
    from hagd.extraction.prompt_plan import IMPORT, build_import_plan  # noqa: PLC0415

    plan = build_import_plan(file)
    folder = out or Path(RUNS_FOLDER) / f"{file.stem}-{digest_of_plan(plan)[:8]}"
    state = run_plan(folder, plan, IMPORT, store=store, threads=None, quiet=quiet)
    say(f"the graph is in {folder}")
    _write_summary(folder, state.run_id, as_json=as_json)


def _open(folder: Path, run_id: str | None) -> "Trace":
    from hagd.attribution.trace import Trace  # noqa: PLC0415
    from hagd.extraction.opened import OpenRun  # noqa: PLC0415

    return Trace.of(OpenRun.open(folder, run_id).document)


def _write_summary(folder: Path, run_id: str | None, *, as_json: bool) -> None:
    trace = _open(folder, run_id)
    summary = trace.summary()
    if as_json:
        write_json("local-graph", summary)
        return
    plain = {name: value for name, value in summary.items() if isinstance(value, str | int | float)}
    write_fields(plain)
    write_table(["target", "weight"], [[it["name"], it["weight"]] for it in summary["targets"]])
    write_line("strongest sources:")
    _write_nodes(trace, range(len(trace.influence)))


def _write_nodes(trace: Any, chosen: Any) -> None:
    names, influence = trace.names(), trace.influence
    best = sorted(chosen, key=lambda number: -influence[number])[:_SHOWN]
    write_table(["node", "influence"], [[names[number], float(influence[number])] for number in best])


def prune(
    run: RunFolderArgument,
    nodes_share: NodeShareOption = 0.8,
    edges_share: EdgeShareOption = 0.98,
    run_id: RunIdOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which nodes and edges of a traced prompt hold most of the influence; --json lists all of them."""
    trace = _open(run, run_id)
    pruned, names = trace.prune(nodes_share, edges_share), trace.names()
    kept = pruned.nodes.nonzero()[0].tolist()
    rows, columns = pruned.edges.nonzero()
    if as_json:
        targets = trace.graph.rows_of_nodes()[rows]
        weights = trace.graph.rows[rows, columns].astype(float).tolist()
        edges = zip(columns.tolist(), targets.tolist(), weights, strict=True)
        content = {
            "nodes": [names[number] for number in kept],
            "edges": [{"source": names[a], "target": names[b], "weight": weight} for a, b, weight in edges],
        }
        write_json("pruned-graph", content)
        return
    write_fields({"nodes": len(kept), "of": trace.graph.n_nodes, "edges": len(rows)})
    _write_nodes(trace, [number for number in kept if number < len(trace.influence)])


def split_by_head(
    run: RunFolderArgument,
    target: Annotated[str, typer.Option("--into", metavar="NODE", help="Where it ends: feature.9.31@7, target.0.")],
    source: Annotated[str, typer.Option("--from", metavar="NODE", help="Where it begins: feature.3.8@2, token@2.")],
    run_id: RunIdOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Split an edge of a traced prompt by the last head that it runs through."""
    trace = _open(run, run_id)
    begin, end = trace.number(source), trace.number(target)
    if begin >= trace.graph.rows.shape[1]:
        raise UsageError(f"nothing flows out of {source}", "name a feature, an error or a token")
    direct, found = trace.heads(begin, end)
    # Where heads are nodes, the graph itself holds only the part without one.
    weight = direct + sum(share.weight for share in found)
    if as_json:
        shares = [{"layer": it.layer, "head": it.head, "weight": it.weight} for it in found]
        write_json("head-loadings", {"weight": weight, "direct": direct, "heads": shares})
        return
    write_fields({"edge": weight, "without a head": direct})
    write_table(["head", "weight"], [[f"{it.layer}.{it.head}", it.weight] for it in found[:_SHOWN]])


def qk(
    run: RunFolderArgument,
    head: Annotated[str, typer.Option("--head", metavar="LAYER.HEAD", help="Which head, such as 3.5.")],
    query: Annotated[int, typer.Option("--query", metavar="7", help="Position that looks.")],
    key: Annotated[int, typer.Option("--key", metavar="2", help="Position that is looked at.")],
    run_id: RunIdOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say why a head attends: its score at one query and key, split into pairs of nodes at both."""
    layer, dot, number = head.partition(".")
    if not (dot and layer.isdecimal() and number.isdecimal()):
        raise UsageError(f"{head!r} names no head", "write it like 3.5, layer and head")
    score, pairs = _open(run, run_id).score_of(int(layer), int(number), query, key)
    if as_json:
        write_json("attention-score", {"score": score, "pairs": list(pairs)})
        return
    write_fields({"score": score})
    write_table(["at the query", "at the key", "weight"], [list(pair.values()) for pair in pairs[:_SHOWN]])


def write_neuronpedia(run: Path, to: Path | None, run_id: str | None) -> None:
    """Write the pruned graph of a traced prompt as the JSON that Neuronpedia shows."""
    import json  # noqa: PLC0415

    trace = _open(run, run_id)
    content = trace.to_neuronpedia(run.resolve().name or "graph", trace.graph.provenance.get("model", "model")[:12])
    write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", to)
