"""The report in a real browser: what a reader sees, clicks and types, and what must never happen.

That no console message, policy violation or request occurs is checked after every test by `open_view`.
"""

import json
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

from hagd.viewer import RunView, render_html
from viewer.example_runs import HOSTILE, hostile_view, llm_view, modadd_view
from viewer.open_report import OpenView

pytestmark = pytest.mark.browser

SUPERNODE = '.node[data-id="supernode.0.1@eq"]'


def test_every_node_of_the_circuit_is_drawn(open_view: OpenView) -> None:
    report = open_view(modadd_view())
    assert report.shown_nodes() == 60
    expect(report.page.locator("h1")).to_have_text("Modular addition, modulus 113")
    expect(report.page.locator("#verdict")).to_have_text("Verified, feature level")


def test_a_circuit_of_311_nodes_over_30_layers_fits_the_panel_without_overlap(open_view: OpenView) -> None:
    report = open_view(llm_view())
    assert report.shown_nodes() == 311
    panel = report.page.locator("#graph").bounding_box()
    assert panel is not None
    boxes = report.page.evaluate(
        "[...document.querySelectorAll('.node:not(.ghost) > .body > .shape')]"
        ".map(shape => shape.getBoundingClientRect().toJSON())"
    )
    for box in boxes:
        assert panel["x"] - 1 <= box["left"] and box["right"] <= panel["x"] + panel["width"] + 1
        assert panel["y"] - 1 <= box["top"] and box["bottom"] <= panel["y"] + panel["height"] + 1
    assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def _overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return (
        a["left"] < b["right"] - 0.5
        and b["left"] < a["right"] - 0.5
        and a["top"] < b["bottom"] - 0.5
        and b["top"] < a["bottom"] - 0.5
    )


def test_layers_run_upwards_and_attention_stands_below_the_mlp(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page

    def height(node: str) -> float:
        box = page.locator(f'.node[data-id="{node}"] > .body').bounding_box()
        assert box is not None
        return -box["y"]

    ladder = [height(name) for name in ("token@eq", "head.0.1@eq", "feature.0.2@eq", "logit@eq")]
    assert ladder == sorted(ladder)


def test_a_supernode_opens_on_a_click_and_closes_on_the_next(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    supernode = page.locator(SUPERNODE)
    expect(supernode).to_have_attribute("aria-expanded", "false")
    supernode.click()
    expect(supernode).to_have_attribute("aria-expanded", "true")
    expect(supernode.locator(".leaf")).to_have_count(9)
    supernode.locator(".capsule").click(position={"x": 3, "y": 12})
    expect(supernode.locator(".leaf")).to_have_count(0)


def test_a_supernode_opens_from_the_keyboard_and_its_leaves_are_reached_by_arrows(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    supernode = page.locator(SUPERNODE)
    supernode.focus()
    page.keyboard.press("Enter")
    expect(supernode).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('data-id')")
    assert focused.startswith("feature.0.2")
    page.keyboard.press(" ")
    expect(page.locator("#card .id")).to_have_text(focused)


def test_the_diagram_is_one_stop_of_the_tab_key(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    expect(page.locator('#graph [tabindex="0"]')).to_have_count(1)
    page.locator('#graph [tabindex="0"]').focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator('#graph [tabindex="0"]')).to_have_count(1)
    expect(page.locator('#graph [tabindex="0"]')).to_be_focused()


def test_a_feature_card_shows_examples_logits_and_edges(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    page.locator('.node[data-id="feature.0.7@eq"]').click()
    card = page.locator("#card")
    expect(card.locator(".card-title")).to_contain_text("cos(2π")
    expect(card.locator(".examples li")).to_have_count(6)
    expect(card.locator(".logits")).to_have_count(2)
    assert card.locator(".edges-list li").count() > 0
    shades = (
        card.locator(".strip")
        .first.locator(".token")
        .evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    )
    assert shades[0] == shades[1] != shades[3]
    page.keyboard.press("Escape")
    expect(card).to_contain_text("Nodes by rank")


def test_an_edge_in_the_card_leads_to_its_other_end(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    page.locator('.node[data-id="feature.0.7@eq"]').click()
    page.locator("#card .edges-list button").first.click()
    selected = page.locator("#graph .node.selected")
    expect(selected).to_have_count(1)
    assert selected.get_attribute("data-id") != "feature.0.7@eq"


def test_the_size_slider_walks_through_the_nested_family(open_view: OpenView) -> None:
    report = open_view(modadd_view())
    slider = report.page.locator("#size")
    slider.fill("25")
    assert report.shown_nodes() == 25
    expect(report.page.locator("#size-shown")).to_have_text("25 of 110 nodes")
    slider.fill("110")
    assert report.shown_nodes() == 110
    slider.focus()
    report.page.keyboard.press("ArrowLeft")
    assert report.shown_nodes() == 109


def test_the_edge_slider_sets_how_many_edges_are_drawn(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    expect(page.locator(".edges .edge")).to_have_count(140)
    page.locator("#edges").fill("10")
    expect(page.locator(".edges .edge")).to_have_count(10)
    widths = page.locator(".edges .edge").evaluate_all("all => all.map(e => Number(e.getAttribute('stroke-width')))")
    assert widths == sorted(widths, reverse=True)
    page.locator("#edges").fill("0")
    expect(page.locator(".edges .edge")).to_have_count(0)


def test_errors_and_skip_paths_can_be_hidden(open_view: OpenView) -> None:
    report = open_view(llm_view())
    before = report.shown_nodes()
    errors = report.page.locator("#graph .node.kind-error:not(.ghost)").count()
    report.page.locator('button[data-kind="error"]').click()
    assert report.shown_nodes() == before - errors < before


def test_search_finds_nodes_by_name_and_by_label(open_view: OpenView) -> None:
    page = open_view(llm_view()).page
    page.locator("#search").fill("giving verbs")
    found = page.locator("#graph .node.found").count()
    assert found > 0
    expect(page.locator("#matches")).to_have_text(f"{found} found")
    page.keyboard.press("Enter")
    expect(page.locator("#card .card-title")).to_have_text("giving verbs")


def test_the_dark_button_changes_the_colours_and_follows_the_system_at_first(open_view: OpenView) -> None:
    def paper(page: object) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")  # type: ignore[attr-defined]

    light, dark = open_view(modadd_view()).page, open_view(modadd_view(), theme="dark").page
    daylight, night = paper(light), paper(dark)
    assert daylight != night
    light.locator("#theme").click()
    assert paper(light) == night
    dark.locator("#theme").click()
    assert paper(dark) == daylight


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(open_view: OpenView, theme: str) -> None:
    page = open_view(modadd_view(), theme=theme).page
    ratios = page.evaluate(
        """() => {
          const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
          const light = c => { probe.fillStyle = c; probe.fillRect(0, 0, 1, 1);
            return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
              .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0); };
          const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          const sheet = light(getComputedStyle(document.querySelector('.panel')).backgroundColor);
          const kinds = ['h3', '.hint', '.positive.num', '.negative.num', '.tick-yes', '.tick-no', '.key.faithfulness'];
          return kinds.map(s => [s, ratio(light(getComputedStyle(document.querySelector(s)).color), sheet)]);
        }"""
    )
    assert all(value >= 4.5 for name, value in ratios if name != ".key.faithfulness"), ratios
    assert all(value >= 3 for _, value in ratios), ratios


def test_evidence_controls_hierarchy_and_provenance_are_told(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    expect(page.locator("#figures")).to_contain_text("0.975")
    expect(page.locator("#evidence table tbody tr")).to_have_count(9)
    expect(page.locator("#evidence")).to_contain_text("0.710 [0.660, 0.760]")
    expect(page.locator("#controls .tick-yes")).to_have_count(2)
    expect(page.locator("#controls .tick-no")).to_have_count(1)
    assert page.locator("#controls .bar").count() > 3
    expect(page.locator("#hierarchy .level-bar")).to_have_count(3)
    expect(page.locator("#provenance pre")).to_have_text("hagd verify runs/modadd --seed 0 --json")


def test_colour_by_module_gives_more_than_one_colour(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    fills = "all => new Set(all.map(e => getComputedStyle(e).fill)).size"
    shapes = page.locator("#graph .node.kind-feature:not(.ghost) .shape")
    assert shapes.evaluate_all(fills) == 1
    page.locator("#colour").select_option("module")
    assert shapes.evaluate_all(fills) == 4


def test_zoom_and_drag_move_the_view_and_fit_brings_it_back(open_view: OpenView) -> None:
    page = open_view(modadd_view()).page
    graph = page.locator("#graph")
    fitted = graph.get_attribute("viewBox")
    page.locator("#zoom-in").click()
    assert graph.get_attribute("viewBox") != fitted
    box = graph.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.up()
    page.locator("#zoom-fit").click()
    assert graph.get_attribute("viewBox") == fitted


def test_hostile_strings_stay_text(open_view: OpenView) -> None:
    page = open_view(hostile_view()).page
    expect(page.locator("h1")).to_have_text(HOSTILE)
    page.locator("#graph .node.kind-feature").click()
    expect(page.locator("#card .card-title")).to_have_text(HOSTILE)
    expect(page.locator("#provenance pre")).to_have_text(HOSTILE)
    assert page.locator("img, #graph script, [onerror], [onload]").count() == 0


def test_a_run_without_any_evidence_still_draws(open_view: OpenView) -> None:
    whole = modadd_view()
    bare = RunView(whole.title, whole.circuit, whole.roles, whole.n_layers)
    page = open_view(bare).page
    expect(page.locator("#verdict")).to_have_text("Not verified yet")
    page.locator('.node[data-id="head.0.1@eq"]').click()
    expect(page.locator("#card .card-title")).to_have_text("Attention head 0.1 @ eq")


def test_nothing_scrolls_sideways_on_a_phone(open_view: OpenView) -> None:
    page = open_view(llm_view(), width=390).page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_policy_stops_a_script_that_is_not_ours(browser: Browser, tmp_path: object) -> None:
    """The check itself can fail: a foreign script is reported and does not run."""
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    html = render_html(replace(modadd_view(), cards={})).replace("</body>", "<script>window.bad = 1</script></body>")
    page.set_content(html)
    assert page.evaluate("window.bad") is None
    assert any("Content Security Policy" in message for message in messages), json.dumps(messages)
    page.close()
