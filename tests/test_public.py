"""What `import attnwidget` gives: light, and the same names whatever was imported before."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def fresh(code: str) -> None:
    """Run in a new interpreter; an assertion that fails there fails here."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_the_same_in_every_order_of_imports() -> None:
    """`attnwidget.capture` is the function, although importing capture.py binds the module to that very name."""
    fresh(
        """
        import importlib, sys, types

        orders = [
            ["import attnwidget.capture"],
            ["import attnwidget.show"],
            ["import attnwidget.export", "import attnwidget.show, attnwidget.capture"],
            ["from attnwidget import capture", "import attnwidget.capture"],
            ["from attnwidget.capture import Recorder, capture"],
            ["import attnwidget", "attnwidget.show", "import attnwidget.show", "import attnwidget.widget"],
            ["from attnwidget import *"],
        ]
        for order in orders:
            for name in [name for name in sys.modules if name.split(".")[0] == "attnwidget"]:
                del sys.modules[name]
            for line in order:
                exec(line)
            import attnwidget
            from attnwidget import capture, record, show, to_html
            for function in (capture, record, show, to_html, attnwidget.capture, attnwidget.show):
                assert isinstance(function, types.FunctionType), (order, function)
            assert attnwidget.capture is capture and attnwidget.show is show
            from attnwidget.capture import Recorder
            module = importlib.import_module("attnwidget.capture")
            assert isinstance(module, types.ModuleType) and module.capture is capture
            assert isinstance(attnwidget.widget, types.ModuleType)  # no public name: the module
            assert isinstance(attnwidget.tiny, types.ModuleType)
            assert isinstance(attnwidget.AttentionWidget, type)
        """
    )


def test_names_can_be_listed_before_anything_is_loaded() -> None:
    fresh(
        """
        import sys, attnwidget

        assert set(attnwidget.__all__) <= set(dir(attnwidget))
        assert not {"torch", "numpy", "transformers", "anywidget", "ipywidgets"} & set(sys.modules)
        try:
            attnwidget.nothing
        except AttributeError as problem:
            assert "nothing" in str(problem)
        else:
            raise AssertionError
        """
    )


def test_a_test_may_still_put_something_else_in_place_of_a_public_name() -> None:
    fresh(
        """
        import attnwidget

        attnwidget.capture = len
        assert attnwidget.capture is len
        del attnwidget.capture
        assert attnwidget.capture is not len and callable(attnwidget.capture)
        """
    )
