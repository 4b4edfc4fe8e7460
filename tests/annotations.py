"""The type checker that the tests put behind every annotation of the mathematics, shapes of tensors included.

`pyproject.toml` names it in pytest's options; jaxtyping then instruments the packages listed there on import. As for
pyright, an integer is good enough where a float is asked for.
"""

from beartype import BeartypeConf, beartype

enforce = beartype(conf=BeartypeConf(is_pep484_tower=True))
