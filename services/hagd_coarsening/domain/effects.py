"""What features write towards the answers: a likeness that the edges of a graph do not show."""

import numpy as np
import torch
from jaxtyping import Float

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.interventions.activations import Subject
from hagd.tasks.task import Task


@torch.no_grad()
def answer_effects(subject: Subject, task: Task, graph: AttributionGraph) -> Float[np.ndarray, "node token"]:
    """Give each feature's direct effect on the logits of all tokens that occur as answer or foil, demeaned.

    The decoder row goes through the gain of the final norm and the unembedding; other nodes get 0. The scale of a
    row means nothing: the functional affinity takes cosines.
    """
    model = subject.model
    batches = task.batches["discover"]
    tokens = torch.cat([tokens.flatten() for batch in batches for tokens in (batch.answers, batch.foils)]).unique()
    read = model.norm_final.gain[:, None] * model.unembed[:, tokens]
    if model.norm_final.kind == "layer":
        read = read - read.mean(0)
    read = read - read.mean(1, keepdim=True)
    effects = np.zeros((graph.n_nodes, len(tokens)))
    for layer, dictionary in subject.dictionaries.items():
        nodes = [i for i, node in enumerate(graph.nodes) if node.kind == "feature" and node.layer == layer]
        features = [graph.nodes[i].index for i in nodes]
        effects[nodes] = (dictionary.w_dec[features] @ read).double().cpu().numpy()
    return effects
