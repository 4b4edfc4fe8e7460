"""Sparse dictionaries of MLPs: inference, metrics and storage. Training lives in the transcoder service."""
