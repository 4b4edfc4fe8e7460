"""Transcoders of other tools: reading their files into our form, and writing ours into theirs.

A format is one file with `NAME`, `matches(folder)` and `read(folder)`; `registry.py` lists them. What is read is a
`Found`: dictionaries that may still read another input than the MLP's own, which `spaces.py` folds away by the norm of
the model, and `probing.py` measures. Layouts are described in each file, from the public sources of the tools.
"""
