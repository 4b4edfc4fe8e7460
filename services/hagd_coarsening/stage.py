"""Stage 2 from artifacts to artifacts: decode, attribute, coarsen, encode."""

from collections.abc import Mapping
from pathlib import Path

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import storage_error
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.storage import graph_to_document, hierarchy_to_document
from hagd.interventions.activations import Subject
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes, free_disk_bytes
from hagd.tasks.storage import task_from_document
from hagd.tasks.task import Task
from hagd_coarsening.domain.effects import answer_effects
from hagd_coarsening.domain.hierarchy import HierarchyConfig, build_hierarchy
from hagd_coarsening.domain.task_graph import GraphConfig, Progress, build_task_graph, is_large
from hagd_coarsening.domain.task_memory import needs_files
from hagd_coarsening.handlers import CoarseningConfig, read_config

_GRAPH_SHARE = 0.8
"""Share of the progress bar that belongs to the graph."""
_SHARE = 0.9
"""Of the memory and the disk that are there, what traces may take."""


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Build the graph of a task and its hierarchy. See `StageFunction`.

    Raises:
        InvalidInputError: the task has no prompts to discover on, too few to draw donors from, or too many for memory.
        CorruptArtifactError: an input is not what its role says.
        NonFiniteError: the attribution diverged.
        StoreFullError, UnavailableError: traces cannot be written to the disk of the run.
    """
    subject = Subject(model_from_document(inputs["model"]), dictionaries_from_document(inputs["dictionaries"]))
    task = task_from_document(inputs["task"])
    folder = context.scratch_folder()
    try:
        graph, hierarchy = coarsen(subject, task, read_config(config), context.progress, folder)
    except OSError as error:
        raise storage_error(error, folder) from error
    return {"graph": graph_to_document(graph), "hierarchy": hierarchy_to_document(hierarchy)}


def coarsen(
    subject: Subject, task: Task, config: CoarseningConfig, progress: Progress, folder: Path
) -> tuple[AttributionGraph, Hierarchy]:
    """Build the graph of a task and its hierarchy; traces that memory does not hold go into files of the folder."""
    mixed = is_large(subject.model) if config.resolution == "auto" else config.resolution == "mixed"
    asked = GraphConfig(
        resolution="mixed" if mixed else "feature",
        prompts=config.prompts,
        edges_per_node=config.edges_per_node,
        edge_threshold=config.edge_threshold,
        source_value=config.source_value,
        steps=config.steps,
        seed=config.seed,
    )
    memory, disk = (int(_SHARE * there) for there in (available_bytes(), free_disk_bytes(folder)))
    in_files = needs_files(subject, task, asked, memory, disk)
    graph = build_task_graph(
        subject,
        task,
        asked,
        lambda done, total, message: progress(_GRAPH_SHARE * done / total, 1.0, message),
        folder if in_files else None,
    )
    progress(_GRAPH_SHARE, 1.0, f"coarsening {graph.n_nodes} nodes and {len(graph.source)} edges")
    effects = answer_effects(subject, task, graph) if config.affinity == "functional" else None
    hierarchy = build_hierarchy(
        graph,
        HierarchyConfig(
            branching=config.branching, affinity=config.affinity, n_vectors=config.n_vectors, seed=config.seed
        ),
        effects,
    )
    progress(1.0, 1.0, f"{len(hierarchy.levels)} levels")
    return graph, hierarchy
