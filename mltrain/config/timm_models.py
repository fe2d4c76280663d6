"""Names of timm's models, read from its source because importing timm, and torch with it, takes seconds."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


@cache
def timm_models() -> tuple[str, ...]:
    """Return the names of all models of the installed timm, sorted."""
    spec = importlib.util.find_spec("timm")
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        return ()
    files = (Path(folders[0]) / "models").glob("*.py")
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))))
