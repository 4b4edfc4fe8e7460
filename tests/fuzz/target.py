"""A program that fuzzes one parser with an eye on the code that its bytes reach: `target.py envelope -runs=100000`.

Runs where atheris is built for, which is Linux.
"""

import sys

import atheris

with atheris.instrument_imports(include=["hagd.artifacts", "hagd.events", "hagd.pipeline", "hagd.rpc"]):
    from fuzz.parsers import holds

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: holds(name, data))
    atheris.Fuzz()
