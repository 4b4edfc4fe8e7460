"""One self-contained HTML file per run: the circuit as a picture, its evidence and its controls."""

from hagd.viewer.page import render_html
from hagd.viewer.summary import repr_html
from hagd.viewer.view import RunView

__all__ = ["RunView", "render_html", "repr_html"]
