"""The maths of stage 2: the task attribution graph and its spectral hierarchy. Pure: tensors in, dataclasses out."""
