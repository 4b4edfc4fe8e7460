"""Stage 2 from artifacts to artifacts: the hierarchy of a graph that is there, or of one that is built on the way.

`run` is the whole idea: a graph in, a hierarchy out. It needs a plan with one more entry, after the stage that builds
the graph. `run_with_graph` stands in the place of that stage instead: it lets the installed one build the graph,
found by its entry point like any stage, and gives the graph on as it is.
"""

from collections.abc import Mapping

from hagd.artifacts.document import Document
from hagd.execution.running import load_function
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.storage import graph_from_document, hierarchy_to_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.stages import find_stage
from leiden_stages.communities import find_modules
from leiden_stages.handlers import GRAPH_STAGE, LeidenConfig, read_config
from leiden_stages.quality import cyclic_weight, measure_levels, measure_modules
from leiden_stages.tree import build_tree

Documents = Mapping[str, Document]


def run(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Group the nodes of a graph. See `StageFunction`.

    Raises:
        CorruptArtifactError: the input is no graph.
    """
    settings = read_config(LeidenConfig, config, "leiden")
    graph = graph_from_document(inputs["graph"])
    context.progress(0, 1, f"grouping {graph.n_nodes} nodes by {len(graph.source)} edges")
    parents = build_tree(graph, settings.branching, settings.seed)
    modules = find_modules(graph, settings.seed)
    context.progress(1, 1, f"{len(parents) + 1} levels")
    hierarchy = Hierarchy(
        parents=tuple(parents),
        levels=measure_levels(graph, parents),
        module_labels=modules,
        module_report=measure_modules(graph, modules, cyclic_weight(graph, modules)),
        branching=settings.branching,
    )
    return {"hierarchy": hierarchy_to_document(hierarchy)}


def run_with_graph(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Build the graph with the installed stage, then group its nodes. See `StageFunction`.

    The inner stage makes a spectral hierarchy too, which is dropped.

    Raises:
        UnknownNameError, HagdError: the stage that builds the graph is not installed or cannot be loaded.
        HagdError: whatever that stage raises.
    """
    made = load_function(find_stage(GRAPH_STAGE).run)(inputs, config, context)
    shared = {name: config[name] for name in LeidenConfig.model_fields if name in config}
    return {"graph": made["graph"], **run({"graph": made["graph"]}, shared, context)}
