"""timm and torchvision, which a CPU-only torch cannot import as they are.

Their wheels hold operators compiled for a torch with CUDA. The models need none of these; torchvision only wants to
know that they exist. So that nothing else of the environment finds a torchvision that does not load, both may stand in
``vision/`` inside the virtual environment (see ``.ci/install``), out of Python's usual way.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_FOLDER = Path(sys.prefix) / "vision"
_declared: list[torch.library.Library] = []  # an operator exists as long as its library does


def load() -> bool:
    """Make ``import timm`` and ``import torchvision`` work; False where they are not installed.

    Before transformers is imported, which looks for them once and remembers.
    """
    if _FOLDER.is_dir() and str(_FOLDER) not in sys.path:
        sys.path.append(str(_FOLDER))
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("timm") is None:
        return False
    if torch.version.cuda is None and not _declared and "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return True
