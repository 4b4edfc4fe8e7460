"""A report that is open in a browser, and how to find the browser."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from playwright.sync_api import Page


@dataclass
class OpenReport:
    """A report in a browser, with what went wrong on the way."""

    page: Page
    errors: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])

    def shown_nodes(self) -> int:
        return self.page.locator("#graph .node:not(.ghost):not(.kind-logit)").count()


OpenView = Callable[..., OpenReport]


def find_chromium() -> str | None:
    names = [os.environ.get("HAGD_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)
