"""An extraction as its user sees it: settings in, a run folder out. Shared by the CLI and the Python door."""
