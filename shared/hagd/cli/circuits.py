"""`hagd circuit show|diff|export`: circuits as text, against each other, and for other tools."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hagd.cli.graphs import FormatOption, GraphFormat, ToOption
from hagd.cli.options import JsonFlag, RunFolderArgument, RunIdOption
from hagd.cli.output import write_fields, write_json, write_line, write_table, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode

app = typer.Typer(help="Circuits.", no_args_is_help=True)
EdgesOption = Annotated[int, typer.Option("--edges", min=0, help="How many of the strongest edges to show.")]
SizeOption = Annotated[int | None, typer.Option("--size", min=1, help="Another member of the nested family.")]
OtherRun = RunFolderArgument


@app.command()
def show(
    run: RunFolderArgument,
    run_id: RunIdOption = None,
    size: SizeOption = None,
    edges: EdgesOption = 15,
    as_json: JsonFlag = False,
) -> None:
    """Show a circuit: its nodes by layer and role, and its strongest edges."""
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    circuit = Extraction.open(run, run_id).circuit
    chosen = circuit.nodes[: size or circuit.size]
    inside = {node.id for node in chosen}
    # Edges were chosen for the circuit; a smaller one has those of them that join its own nodes and the logits.
    own = [
        edge
        for edge in circuit.edges[: circuit.n_edges]
        if edge.source in inside and (edge.target in inside or edge.target.startswith("logit@"))
    ]
    if as_json:
        write_json("circuit", _to_json(circuit, chosen, own))
        return
    write_fields(
        {
            "nodes": len(chosen),
            "leaves": sum(node.n_leaves for node in chosen),
            "edges": len(own),
            "evaluations": circuit.evaluations,
        }
    )
    write_line()
    _write_layers(chosen)
    if strongest := own[:edges]:
        write_line()
        write_table(["from", "to", "weight"], [[edge.source, edge.target, edge.weight] for edge in strongest])


def _write_layers(nodes: "tuple[CircuitNode, ...]") -> None:
    """Write one line per layer and role, the network's order from top to bottom, strongest nodes first."""
    blocks: dict[tuple[int, str], list[CircuitNode]] = {}
    for node in nodes:
        blocks.setdefault((node.layer, node.role), []).append(node)
    rows: list[list[Any]] = []
    for (layer, role), members in sorted(blocks.items(), key=lambda item: item[0]):
        ranked = sorted(members, key=lambda node: -abs(node.score))
        rows.append(["tokens" if layer < 0 else layer, role, len(members), _names(ranked)])
    write_table(["layer", "role", "nodes", "which"], rows)


def _names(nodes: "list[CircuitNode]", most: int = 8) -> str:
    named = ", ".join(node.id.partition("@")[0] + ("*" if node.unexplained else "") for node in nodes[:most])
    return named + (f", {len(nodes) - most} more" if len(nodes) > most else "")


def _to_json(circuit: "Circuit", nodes: "Sequence[CircuitNode]", edges: "Sequence[CircuitEdge]") -> dict[str, Any]:
    return {
        "size": len(nodes),
        "n_edges": len(edges),
        "evaluations": circuit.evaluations,
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind,
                "layer": node.layer,
                "role": node.role,
                "leaves": [str(leaf) for leaf in node.leaves],
                "n_leaves": node.n_leaves,
                "unexplained": node.unexplained,
                "score": node.score,
            }
            for node in nodes
        ],
        "edges": [{"source": edge.source, "target": edge.target, "weight": edge.weight} for edge in edges],
    }


@app.command()
def diff(first: RunFolderArgument, second: OtherRun, as_json: JsonFlag = False) -> None:
    """Compare the circuits of two runs leaf by leaf: what both keep, and what only one does."""
    from hagd.extraction.comparison import compare_circuits  # noqa: PLC0415
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    found = compare_circuits(Extraction.open(first).circuit, Extraction.open(second).circuit)
    if as_json:
        write_json("circuit-diff", found.to_json())
        return
    write_fields(
        {
            "in both": len(found.both),
            "only in the first": len(found.only_first),
            "only in the second": len(found.only_second),
            "Jaccard": found.jaccard,
            "Jaccard of edges": found.edge_jaccard,
        }
    )
    write_line()
    write_table(["kind", "both", "first", "second"], [list(row) for row in found.by_kind])
    for mark, leaves in (("-", found.only_first), ("+", found.only_second)):
        for leaf in leaves:
            write_line(f"{mark} {leaf}")


@app.command()
def export(
    run: RunFolderArgument,
    form: FormatOption = GraphFormat.json,
    to: ToOption = None,
    run_id: RunIdOption = None,
) -> None:
    """Write the circuit for other tools."""
    from hagd.extraction.drawing import draw_network, network_of_circuit  # noqa: PLC0415
    from hagd.extraction.result import Extraction  # noqa: PLC0415

    write_text(draw_network(network_of_circuit(Extraction.open(run, run_id).circuit), form.value), to)
