"""The report as a file: complete in itself, and closed against what a run may contain."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hagd.errors import InvalidInputError, NonFiniteError
from hagd.graphs.circuit import CircuitEdge
from hagd.viewer import render_html, repr_html
from hagd.viewer.page import SCRIPTS, asset
from hagd.viewer.payload import MAX_EDGES, embed, payload_of
from viewer.example_runs import HOSTILE, hostile_view, llm_view, modadd_view


class Tags(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags_of(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(text)
    return parser.found


@pytest.mark.parametrize("view", [modadd_view(), llm_view(), hostile_view()], ids=["modadd", "llm", "hostile"])
def test_the_file_asks_for_nothing_and_has_no_inline_handlers(view) -> None:
    for tag, attributes in tags_of(render_html(view)):
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        if "href" in attributes:
            assert (attributes["href"] or "").startswith(("#", "data:"))
        assert tag not in ("iframe", "object", "embed", "img")


def test_the_policy_admits_exactly_the_script_and_the_style_by_hash() -> None:
    text = render_html(modadd_view())
    policy = next(a["content"] for tag, a in tags_of(text) if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(_between(text, name).encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def _between(text: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)
    assert found is not None
    return found.group(1)


def test_the_script_uses_no_way_of_turning_strings_into_code_or_markup() -> None:
    script = "".join(map(asset, SCRIPTS))
    for forbidden in (
        "eval(",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "new Function",
        "fetch(",
        "</script",
    ):
        assert forbidden not in script


@given(st.text())
def test_embedded_data_survives_the_round_trip_and_never_closes_its_element(text: str) -> None:
    embedded = embed({"value": text})
    assert json.loads(embedded) == {"value": text}
    assert not set("<>&") & set(embedded)
    assert embedded.isascii()


def test_hostile_strings_are_in_the_file_only_as_escapes() -> None:
    assert HOSTILE not in render_html(hostile_view())
    assert HOSTILE not in repr_html(hostile_view())


def test_equal_views_give_equal_bytes() -> None:
    assert render_html(llm_view()) == render_html(llm_view())


def test_a_dollar_sign_in_a_run_is_no_placeholder() -> None:
    assert "$style and $$" in render_html(replace(modadd_view(), title="$style and $$"))


def test_numbers_that_are_not_finite_are_refused() -> None:
    view = replace(modadd_view(), verification={"tost_p": float("nan")})
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        render_html(view)


def test_an_edge_to_an_unknown_node_is_refused_by_name() -> None:
    view = modadd_view()
    circuit = replace(view.circuit, edges=(CircuitEdge("feature.9.9@eq", "logit@eq", 1.0),))
    with pytest.raises(InvalidInputError, match=r"feature\.9\.9@eq"):
        render_html(replace(view, circuit=circuit))


def test_edges_beyond_the_limit_are_left_out_and_counted() -> None:
    view = modadd_view()
    many = tuple(CircuitEdge("token@a", "head.0.1@eq", 1 / (i + 1)) for i in range(MAX_EDGES + 37))
    payload = payload_of(replace(view, circuit=replace(view.circuit, edges=many)))
    assert len(payload["edges"]) == MAX_EDGES
    assert payload["edges_left_out"] == 37


def test_a_supernode_has_the_module_of_most_of_its_leaves() -> None:
    view = modadd_view()
    modules = {f"feature.0.{i}@eq": 5 if i < 206 else 2 for i in range(200, 209)}
    nodes = payload_of(replace(view, modules=modules))["nodes"]
    assert next(node["module"] for node in nodes if node["id"] == "supernode.0.1@eq") == 5


def test_the_sentence_tells_what_was_measured_and_against_what() -> None:
    sentence = payload_of(modadd_view())["summary"]["sentence"]
    assert sentence == (
        "With 60 nodes live and all else taken from other prompts, the model keeps its answer on 97.5% of 240 held-out "
        "prompts (95% interval 95.5% to 98.9%; chance 1.1%). Matched random circuits keep 6.2% on average (p = 0.0010)."
    )


def test_a_circuit_without_verification_claims_nothing() -> None:
    summary = payload_of(replace(modadd_view(), verification={}))["summary"]
    assert summary["badge"] == "Not verified yet"
    assert "has not been tested" in summary["sentence"]


def test_the_notebook_block_is_small_and_has_no_script() -> None:
    block = repr_html(modadd_view())
    assert len(block) < 4000
    assert "<script" not in block
    assert "Verified, feature level" in block
    assert "<polyline" in block
