"""The artifacts of an extraction by role: what the built-in stages pass to each other and leave behind."""

from typing import Final

MODEL: Final = "model"
TASK: Final = "task"
DICTIONARIES: Final = "dictionaries"
TRAINING: Final = "training"
GRAPH: Final = "graph"
HIERARCHY: Final = "hierarchy"
CIRCUIT: Final = "circuit"
VERIFICATION: Final = "verification"
CARDS: Final = "cards"
