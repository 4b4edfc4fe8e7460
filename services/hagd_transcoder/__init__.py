"""Stage 1: prepares the subject, and trains sparse dictionaries of its MLPs."""
