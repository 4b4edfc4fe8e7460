"""Training dictionaries, beside eai-sparsify (`make bench-dictionaries`).

Writes `build/dictionaries.json` and exits with 1 when a floor is missed. `python -m benchmarks.dictionaries steps`
measures only those rows.
"""

import sys
from collections.abc import Callable

from benchmarks.dictionaries.across import measure_across
from benchmarks.dictionaries.estimates import measure_estimates
from benchmarks.dictionaries.modulus import measure_modulus
from benchmarks.dictionaries.printed import measure_printed
from benchmarks.dictionaries.small_gpt2 import measure_small_gpt2
from benchmarks.dictionaries.smollm2 import measure_smollm2
from benchmarks.dictionaries.steps import measure_steps
from benchmarks.dictionaries.together import measure_together
from benchmarks.tables import Row, run

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "steps": measure_steps,
    "modulus": measure_modulus,
    "small-gpt2": measure_small_gpt2,
    "printed": measure_printed,
    "across": measure_across,
    "smollm2": measure_smollm2,
    "together": measure_together,
    "estimates": measure_estimates,
}


if __name__ == "__main__":
    sys.exit(run("Training dictionaries", "dictionaries", MEASURES, sys.argv[1:]))
