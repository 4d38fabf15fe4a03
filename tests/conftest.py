"""What every test gets: marks where they belong, in a good order, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import vision

vision.load()  # before any test makes transformers look for timm and torchvision
BROWSER = Path(__file__).parent / "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is in browser/ needs a browser. Files with slow tests go first, so that two workers end together."""
    for item in items:
        if BROWSER in item.path.parents:
            item.add_marker(pytest.mark.browser)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
