"""Made-up runs in the shape of real ones: modular addition at feature level, IOI on a deep model, a hostile one."""

import itertools
import random
from typing import Any

import numpy as np

from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd.graphs.nodes import Node
from hagd.viewer import RunView

HOSTILE = "</script><img src=x onerror=alert(1)>"
IOI_ROLES = (
    "bos",
    "When",
    "name1",
    "and",
    "name2",
    "went",
    "to",
    "the",
    "place",
    "comma",
    "subject",
    "gave",
    "object",
    "answer",
)


def modadd_view() -> RunView:
    """60 nodes of 110 in the family: 3 tokens, 4 heads, features of one layer, two supernodes."""
    rng = random.Random(7)
    nodes = [_leaf(Node("token", -1, role), 0.8) for role in ("a", "b", "eq")]
    nodes += [_leaf(Node("head", 0, "eq", i), rng.uniform(0.2, 0.9)) for i in range(4)]
    nodes += [_supernode("supernode.0.1@eq", 0, "eq", range(200, 209), 0.5)]
    nodes += [_supernode("supernode.0.2@eq", 0, "eq", range(220, 233), -0.4)]
    nodes += [_leaf(Node("feature", 0, "eq", i), rng.gauss(0, 0.3) / (1 + i / 40)) for i in range(100)]
    nodes += [_leaf(Node("error", 0, "eq"), 0.02)]
    edges = _dense_edges(rng, nodes, 60, "eq")
    features = [node.id for node in nodes if node.kind == "feature"] + [f"feature.0.{i}@eq" for i in range(200, 209)]
    return RunView(
        title="Modular addition, modulus 113",
        circuit=Circuit(tuple(nodes), 60, edges, 140, {0: ("eq",)}, 18432, ()),
        roles=("a", "plus", "b", "eq"),
        n_layers=1,
        verification=_verification(rng, 60, 110, 0.975, samples=True),
        hierarchy=_hierarchy((263, 34, 5), 9),
        cards={name: _modadd_card(rng, name) for name in features},
        modules={name: i % 4 for i, name in enumerate(features)},
        provenance={"model": {"name": "gpt2-modadd", "held_out_accuracy": 0.9996}, "hagd": "0.1.0", "seed": 0},
    )


def llm_view() -> RunView:
    """311 nodes of mixed resolution over 30 layers and 14 roles, in a family of 400."""
    rng = random.Random(11)
    n_layers, nodes, taken = 30, [], set[str]()
    nodes += [_leaf(Node("token", -1, role), rng.uniform(0.1, 1)) for role in ("name1", "name2", "subject", "place")]
    while len(nodes) < 400:
        layer = min(n_layers - 1, max(0, int(rng.gauss(16, 8))))
        role = rng.choices(IOI_ROLES, weights=[1, 1, 4, 1, 4, 1, 1, 1, 2, 1, 5, 3, 2, 9])[0]
        node = _llm_node(rng, layer, role)
        if node.id not in taken:
            taken.add(node.id)
            nodes.append(node)
    edges = _dense_edges(rng, nodes, 311, "answer", share=0.05)
    cards = {node.id: _text_card(rng) for node in nodes if node.kind == "feature"}
    return RunView(
        title="Indirect object identification, SmolLM2-135M",
        circuit=Circuit(tuple(nodes), 311, edges, 900, {22: ("answer",)}, 17210, ()),
        roles=IOI_ROLES,
        n_layers=n_layers,
        verification=_verification(rng, 311, 400, 0.955),
        hierarchy=_hierarchy((4214, 540, 76, 14), 24),
        cards=cards,
        modules={node.id: rng.randrange(14) for node in nodes if node.kind != "token"},
        provenance={"model": {"digest": "9f2c…e1", "quantisation": "Q4_1, dequantised", "bos": "none"}, "seed": 0},
    )


def hostile_view() -> RunView:
    """A small run whose every string tries to become markup."""
    nodes = [_leaf(Node("token", -1, HOSTILE), 1.0), _leaf(Node("feature", 0, HOSTILE, 3), -0.5)]
    edges = (CircuitEdge(nodes[0].id, nodes[1].id, 0.4), CircuitEdge(nodes[1].id, f"logit@{HOSTILE}", -0.2))
    card = {
        "label": HOSTILE,
        "frequency": 0.5,
        "examples": [
            {"tokens": [HOSTILE, "<!--", "\ud800"], "activations": [1.0, 0.2, 0], "position": 0, "prediction": HOSTILE}
        ],
        "promoted": [[HOSTILE, 1.0]],
        "suppressed": [["<svg onload=alert(1)>", -1.0]],
    }
    return RunView(
        title=HOSTILE,
        circuit=Circuit(tuple(nodes), 2, edges, 2, {}, 3, ()),
        roles=(HOSTILE,),
        n_layers=1,
        verification={
            "verdict": HOSTILE,
            "negative_controls": [{"name": HOSTILE, "verdict": HOSTILE, "expected": HOSTILE}],
        },
        cards={nodes[1].id: card},
        provenance={HOSTILE: HOSTILE, "command": HOSTILE},
    )


def _leaf(leaf: Node, score: float) -> CircuitNode:
    return CircuitNode(str(leaf), leaf.kind, leaf.layer, leaf.role, (leaf,), 1, False, score)


def _supernode(name: str, layer: int, role: str, indices: range, score: float) -> CircuitNode:
    leaves = tuple(Node("feature", layer, role, i) for i in indices)
    return CircuitNode(name, "supernode", layer, role, leaves, len(leaves), False, score)


def _llm_node(rng: random.Random, layer: int, role: str) -> CircuitNode:
    score = rng.gauss(0, 0.4) ** 3
    match rng.choices(["head", "mlp", "feature", "supernode", "error", "skip"], weights=[60, 22, 10, 4, 2, 2])[0]:
        case "head":
            return _leaf(Node("head", layer, role, rng.randrange(9)), score)
        case "mlp":
            leaf = Node("mlp", layer, role)
            return CircuitNode(str(leaf), "mlp", layer, role, (leaf,), 1536, True, score)
        case "supernode":
            start = rng.randrange(1400)
            return _supernode(
                f"supernode.{layer}.{start}@{role}", layer, role, range(start, start + rng.randint(3, 60)), score
            )
        case "feature":
            return _leaf(Node("feature", layer, role, rng.randrange(1536)), score)
        case kind:
            return _leaf(Node(kind, layer, role), score)  # type: ignore[arg-type]


def _dense_edges(
    rng: random.Random, nodes: list[CircuitNode], size: int, answer: str, share: float = 0.6
) -> tuple[CircuitEdge, ...]:
    kept = nodes[:size]
    pairs = [(a, b) for a in kept for b in kept if _stage(a) < _stage(b) and rng.random() < share]
    edges = [CircuitEdge(a.id, b.id, rng.gauss(0, 1) ** 3 * (2 + abs(a.score * b.score))) for a, b in pairs]
    edges += [
        CircuitEdge(a.id, f"logit@{answer}", a.score * 6)
        for a in kept
        if a.kind in ("feature", "supernode", "head", "mlp")
    ]
    return tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))


def _stage(node: CircuitNode) -> int:
    return -1 if node.kind == "token" else 2 * node.layer + (node.kind != "head")


def _verification(
    rng: random.Random, size: int, family: int, preserved: float, samples: bool = False
) -> dict[str, Any]:
    sizes = sorted({1, 4, 9, 16, 25, 36, 49, 64, 100, 150, 200, 250, size, family} & set(range(1, family + 1)))
    share = [min(1.0, preserved * (1 - np.exp(-4.2 * k / size)) / (1 - np.exp(-4.2))) for k in sizes]
    draws = [max(0.0, rng.gauss(0.06, 0.04)) for _ in range(999)]
    matched: dict[str, Any] = {"mean": 0.062, "q95": 0.13, "p": 0.001}
    settings = [(a, e) for a in ("counterfactual", "unpaired", "mean", "zero") for e in ("corrupted", "zero", "live")]
    return {
        "verdict": "verified",
        "scope": "feature-level" if samples else "component-level",
        "model": {"digest": "sha256:5f1e0c44", "quantisation": None, "bos": False},
        "circuit": {
            "nodes": size,
            "edges": 140,
            "by_kind": {"token": 3, "head": 4, "feature": 51, "supernode": 2},
            "leaves": size + 20,
            "description_length_bits": 612.4,
        },
        "headline": {
            "behavioural_preservation": preserved,
            "chance": 0.011,
            "ci95": [preserved - 0.02, min(1, preserved + 0.014)],
            "faithfulness": 0.987,
            "kl_nats": 0.0431,
            "n": 240,
            "seed": 0,
        },
        "edges_only": {"behavioural_preservation": preserved - 0.11, "random_mean": 0.034},
        "curve": [
            {
                "nodes": k,
                "leaves": k + 7,
                "behavioural_preservation": float(b),
                "faithfulness": float(min(1.04, b + 0.05)),
            }
            for k, b in zip(sizes, share, strict=True)
        ],
        "negative_controls": [
            {"name": "random weights", "verdict": "no claim", "expected": "no claim"},
            {"name": "scores permuted", "verdict": "refuted", "expected": "refuted"},
            {"name": "donor answers mismatched", "verdict": "verified", "expected": "no claim"},
        ],
        "random_control": {
            "uniform": {"mean": 0.021, "q95": 0.05, "p": 0.001},
            "matched": matched | ({"samples": draws, "draws": 999} if samples else {}),
        },
        "settings": [
            {
                "ablation": a,
                "errors": e,
                "attention": "live",
                "behavioural_preservation": preserved - 0.01 * i,
                "faithfulness": 0.99 - 0.02 * i,
                "kl_nats": 0.04 + 0.01 * i,
            }
            for i, (a, e) in enumerate(settings[: 9 if samples else 12])
        ],
        "feature_mediated_share": {"value": 0.71, "ci95": [0.66, 0.76]} if samples else None,
        "error_credit": 0.012,
        "necessity_excess": {"value": 0.08, "ci95": [0.03, 0.12]},
        "tost_p": 0.00021,
        "command": "hagd verify runs/modadd --seed 0 --json",
    }


def _hierarchy(sizes: tuple[int, ...], n_modules: int) -> Hierarchy:
    levels = tuple(LevelReport(n, 0.1 * i, 0.3 + 0.2 * i, 8**i, 1e-7, 0.2, 3.0, 0.0) for i, n in enumerate(sizes))
    parents = tuple(np.arange(a) % b for a, b in itertools.pairwise(sizes))
    report = LevelReport(n_modules, 0.31, 0.64, 41, 1e-7, 0.1, 3.0, 0.07)
    return Hierarchy(parents, levels, np.arange(sizes[0]) % n_modules, report, 8)


def _modadd_card(rng: random.Random, name: str) -> dict[str, Any]:
    frequency = rng.choice((4, 17, 29, 51))
    examples = []
    for _ in range(6):
        a, b = rng.randrange(113), rng.randrange(113)
        examples.append(
            {
                "tokens": [str(a), "+", str(b), "="],
                "activations": [0.0, 0.0, rng.random() * 0.3, 1 + rng.random() * 2],
                "position": 3,
                "prediction": str((a + b) % 113),
            }
        )
    top = [[str(rng.randrange(113)), 3 - i * 0.3] for i in range(8)]
    low = [[str(rng.randrange(113)), -2.6 + i * 0.25] for i in range(8)]
    return {
        "label": f"cos(2π·{frequency}(a+b)/113)",
        "frequency": rng.uniform(0.05, 0.4),
        "examples": examples,
        "promoted": top,
        "suppressed": low,
    }


def _text_card(rng: random.Random) -> dict[str, Any]:
    words = ["When", "Mary", "and", "John", "went", "to", "the", "store", ",", "John", "gave", "a", "drink", "to"]
    names = ["Mary", "Anna", "Kate", "Tom", "Paul", "Ruth"]
    examples = []
    for _ in range(5):
        tokens = [f" {rng.choice(names) if word in names else word}" if i else word for i, word in enumerate(words)]
        heat = [max(0.0, rng.gauss(-0.6, 1)) for _ in tokens]
        examples.append(
            {"tokens": tokens, "activations": heat, "position": int(np.argmax(heat)), "prediction": " Mary"}
        )
    return {
        "label": rng.choice(["a name already seen", "recipient of a gift", "second clause opens", "", "giving verbs"]),
        "frequency": rng.uniform(0.001, 0.2),
        "examples": examples,
        "promoted": [[f" {name}", 2 - i * 0.3] for i, name in enumerate(names)],
        "suppressed": [[" the", -1.2], [" it", -0.9], ["\n", -0.4]],
    }
