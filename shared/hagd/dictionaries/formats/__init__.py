"""Transcoders of other tools: reading their files into our form, and writing ours into theirs.

A format is one file with `NAME`, `FILES` (the names of its files as seen from the folder, `**/` before those that may
lie in folders below), `matches(folder)` and `read(folder)`; `registry.py` lists them. What is read is a `Found`:
dictionaries that may still read another input than the MLP's own, which `spaces.py` folds away by the norm of the
model, and `probing.py` measures. Layouts are described in each file, from the public sources of the tools.
`sharing.py` fetches such folders from the hub and uploads them.
"""
