"""What tests of hosts record: the cells of the README's table, each by the test that showed it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CELLS = Path(__file__).parents[1] / "out" / "cells.jsonl"
COLUMNS = ("appears", "click → Python", "Python → picture", "linked", "reopened without kernel", "offline")


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``cell(host, column, words="yes")``: what the table says of a host, provided that this test passes.

    ``column`` is one of :data:`COLUMNS`, or "tested how". What a host does not do is a cell as well, in its words.
    """

    def record(host: str, column: str, words: str = "yes") -> None:
        assert column in (*COLUMNS, "tested how"), column
        request.node.user_properties.append(("cell", (host, column, words)))

    return record


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup``, the tests of a file are for one worker: they share a server."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.when == "call" and report.passed:
        lines = [json.dumps(value) for name, value in item.user_properties if name == "cell"]
        CELLS.parent.mkdir(parents=True, exist_ok=True)
        with CELLS.open("a", encoding="utf-8") as file:  # several workers add to it, a line at a time
            file.write("".join(f"{line}\n" for line in lines))
    return report
