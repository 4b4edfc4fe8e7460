"""A headless Chromium for the browser tests, and a page that remembers all it must not do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from hagd.viewer import RunView, render_html
from viewer.open_report import OpenReport, OpenView, find_chromium

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective))"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        reason = "no Chromium found: set HAGD_CHROMIUM or put chromium or google-chrome on the PATH"
        if os.environ.get("HAGD_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def open_view(browser: Browser, tmp_path: Path) -> Iterator[OpenView]:
    """Render a view to a file and open it; at the end of the test nothing may have gone wrong."""
    contexts: list[BrowserContext] = []
    reports: list[OpenReport] = []

    def open_it(view: RunView, *, theme: str = "light", width: int = 1440) -> OpenReport:
        path = tmp_path / f"report{len(reports)}.html"
        path.write_text(render_html(view), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
            offline=True,
        )
        contexts.append(context)
        context.add_init_script(WATCH)
        report = OpenReport(context.new_page())
        reports.append(report)
        report.page.set_default_timeout(5000)
        report.page.on("console", lambda message: report.errors.append(f"{message.type}: {message.text}"))
        report.page.on("pageerror", lambda error: report.errors.append(str(error)))
        report.page.on("request", lambda request: report.requests.append(request.url))
        report.page.goto(path.as_uri())
        return report

    yield open_it
    for context in contexts:
        context.close()
    for report in reports:
        assert report.errors == []
        assert [url for url in report.requests if not url.startswith(("file:", "data:"))] == []
        assert len([url for url in report.requests if url.startswith("file:")]) == 1
