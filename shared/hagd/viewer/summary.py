"""A run in one sentence, and as a small block for notebooks. Both say only what was measured."""

import html
from collections.abc import Mapping
from typing import Any, Final

from hagd.viewer.view import RunView

_TONES: Final = {"verified": "good", "refuted": "bad"}
_COLOURS: Final = {"good": "#2c7a4b", "bad": "#b23a3a", "neutral": "#6b7280"}


def badge_of(view: RunView) -> str:
    """Give the verdict with its scope, such as `Verified, component level`."""
    verdict, scope = view.verification.get("verdict"), view.verification.get("scope")
    if not verdict:
        return "Not verified yet"
    text = str(verdict).capitalize()
    return f"{text}, {str(scope).removesuffix('-level')} level" if verdict == "verified" and scope else text


def tone_of(view: RunView) -> str:
    """Give `good`, `bad` or `neutral`."""
    return _TONES.get(str(view.verification.get("verdict")), "neutral")


def sentence_of(view: RunView) -> str:
    """Say what the circuit does in the real model, against what."""
    headline: Mapping[str, Any] = view.verification.get("headline") or {}
    preserved = headline.get("behavioural_preservation")
    size = view.circuit.size
    if preserved is None:
        return f"A circuit of {_count(size, 'node')} was proposed; it has not been tested in the model yet."
    prompts = f"{headline['n']} held-out prompts" if headline.get("n") else "the held-out prompts"
    text = (
        f"With {_count(size, 'node')} live and all else taken from other prompts, "
        f"the model keeps its answer on {preserved:.1%} of {prompts}{_bracket(headline)}."
    )
    return text + _null(view.verification)


def repr_html(view: RunView) -> str:
    """Give a compact block for notebooks: verdict, sentence, a few numbers and the curve of the nested family."""
    rows = "".join(
        f'<td style="padding:2px 16px 2px 0;text-align:left"><span style="opacity:.65;font-size:11px">{name}</span>'
        f'<br><span style="font-size:16px">{value}</span></td>'
        for name, value in _key_numbers(view)
    )
    return (
        '<div style="font-family:sans-serif;max-width:760px;line-height:1.45">'
        f'<div><b>{html.escape(view.title)}</b> <span style="color:{_COLOURS[tone_of(view)]};border:1px solid;'
        f'border-radius:9px;padding:0 8px;font-size:12px">{html.escape(badge_of(view))}</span></div>'
        f'<div style="margin:4px 0">{html.escape(sentence_of(view))}</div>'
        f'<table style="border:0;margin:0"><tr style="background:none">{rows}<td>{_sparkline(view)}</td></tr></table>'
        "</div>"
    )


def _null(verification: Mapping[str, Any]) -> str:
    matched: Mapping[str, Any] = (verification.get("random_control") or {}).get("matched") or {}
    if matched.get("mean") is None:
        return ""
    text = f" Matched random circuits keep {matched['mean']:.1%} on average"
    return f"{text} (p {_probability(matched['p'])})." if matched.get("p") is not None else f"{text}."


def _bracket(headline: Mapping[str, Any]) -> str:
    parts: list[str] = []
    if headline.get("ci95"):
        low, high = headline["ci95"]
        parts.append(f"95% interval {low:.1%} to {high:.1%}")
    if headline.get("chance") is not None:
        parts.append(f"chance {headline['chance']:.1%}")
    return f" ({'; '.join(parts)})" if parts else ""


def _probability(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"= {p:.4f}" if p < 0.01 else f"= {p:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _key_numbers(view: RunView) -> list[tuple[str, str]]:
    headline: Mapping[str, Any] = view.verification.get("headline") or {}
    circuit: Mapping[str, Any] = view.verification.get("circuit") or {}
    wanted = [
        ("preservation", headline.get("behavioural_preservation"), ".3f"),
        ("chance", headline.get("chance"), ".3f"),
        ("faithfulness", headline.get("faithfulness"), ".2f"),
        ("nodes", view.circuit.size, ",d"),
        ("leaves", circuit.get("leaves"), ",d"),
        ("claimed edges", view.circuit.n_edges, ",d"),
    ]
    return [(name, format(value, form)) for name, value, form in wanted if value is not None]


def _sparkline(view: RunView) -> str:
    points = sorted((p["nodes"], p["behavioural_preservation"]) for p in view.verification.get("curve") or [])
    if len(points) < 2:
        return ""
    width, height, longest = 150, 36, max(nodes for nodes, _ in points)
    line = " ".join(f"{nodes / longest * width:.1f},{height - 2 - value * (height - 4):.1f}" for nodes, value in points)
    chosen = view.circuit.size / longest * width
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="preservation against size">'
        f'<line x1="{chosen:.1f}" x2="{chosen:.1f}" y1="0" y2="{height}" stroke="currentColor" stroke-dasharray="2 3" '
        'opacity=".5"/>'
        f'<polyline points="{line}" fill="none" stroke="#3b7fb5" stroke-width="2"/></svg>'
    )
