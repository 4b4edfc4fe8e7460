"""Training dictionaries, beside eai-sparsify (`make bench-dictionaries`).

Writes `build/dictionaries.json` and exits with 1 when a floor is missed. `python -m benchmarks.dictionaries steps`
measures only those rows.
"""

import sys
import time
from collections.abc import Callable

from benchmarks.dictionaries.modulus import measure_modulus
from benchmarks.dictionaries.small_gpt2 import measure_small_gpt2
from benchmarks.dictionaries.smollm2 import measure_smollm2
from benchmarks.dictionaries.steps import measure_steps
from benchmarks.tables import Row, report

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "steps": measure_steps,
    "modulus": measure_modulus,
    "small-gpt2": measure_small_gpt2,
    "smollm2": measure_smollm2,
}


def main(names: list[str]) -> int:
    """Measure the rows of these names, all of them when there are none."""
    if unknown := sorted(set(names) - set(MEASURES)):
        sys.stderr.write(f"unknown: {', '.join(unknown)}; there are {', '.join(MEASURES)}\n")
        return 2
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in names or MEASURES:
        began = time.monotonic()
        rows += MEASURES[name]()
        seconds[name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name}: {seconds[name]:.0f} s\n")
    return report("Training dictionaries", "dictionaries", rows, {"seconds": seconds})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
