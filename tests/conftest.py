"""What every test gets: a browser and servers where it asks for them, marks where they belong, and a good order."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import vision
from screen import axe, chromium, page, shots  # noqa: F401  fixtures
from servers import lab, notebook, notebook7  # noqa: F401  fixtures

vision.load()  # before any test makes transformers look for timm and torchvision
FOLDERS = {"browser": pytest.mark.browser, "hosts": pytest.mark.host}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is in browser/ needs a browser, in hosts/ a host. Slow files go first, so that two workers end together."""
    here = Path(__file__).parent
    for item in items:
        if mark := FOLDERS.get(item.path.relative_to(here).parts[0]):
            item.add_marker(mark)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
