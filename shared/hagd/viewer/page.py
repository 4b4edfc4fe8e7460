"""The report as one HTML file: template, style and script from this package, data as JSON, nothing from elsewhere.

The content security policy admits exactly this script and this style, by hash. It forbids every request and, by
Trusted Types, every way of turning a string into markup; so a hostile token or label can only ever be text.
"""

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files
from string import Template
from typing import Final

from hagd.viewer.payload import embed, payload_of
from hagd.viewer.view import RunView

SCRIPTS: Final = (
    "dom.js",
    "layout.js",
    "camera.js",
    "glyphs.js",
    "diagram.js",
    "charts.js",
    "inspector.js",
    "evidence.js",
    "background.js",
    "main.js",
)
"""In the order of their dependence; together they are one script."""
STYLES: Final = ("theme.css", "page.css", "diagram.css", "reading.css", "screens.css")


def render_html(view: RunView) -> str:
    """Give the report of a run as one HTML document, ASCII but for the package's own text.

    Raises:
        InvalidInputError: the circuit contradicts itself, or a value is no JSON value.
        NonFiniteError: a number is NaN or infinite.
    """
    script, style = _script(), "\n".join(map(asset, STYLES))
    return Template(asset("template.html")).substitute(
        csp=html.escape(content_security_policy(script, style)),
        title=html.escape(view.title),
        style=style,
        script=script,
        data=embed(payload_of(view)),
    )


def content_security_policy(script: str, style: str) -> str:
    """Give the policy that admits this script and this style and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


@cache
def asset(name: str) -> str:
    """Read one of the package's files, with line ends as a browser will see them."""
    text = (files("hagd.viewer") / "assets" / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


@cache
def _script() -> str:
    parts = "\n".join(asset(name) for name in SCRIPTS)
    return f'\n(() => {{\n"use strict";\n{parts}\n}})();\n'


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
