"""Packages of the user: `paths.imports=[mypkg]` finds them and lets a config name their parts.

Python looks for them among the installed packages and, after those, in the working directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

OPTION = "paths.imports"
NAMES = ("imports", "allow_targets")  # keys of the section paths, the current one first; both mean the same
GIVEN = "mltrain_given"  # module of the objects of a Python program, see mltrain.runs.given


def make_importable(package: str) -> str | None:
    """Let Python find a package in the working directory too. Return what is wrong with it, or None.

    The folder comes last in `sys.path`, so that no file in it replaces an installed package.
    """
    root, folder = package.partition(".")[0], Path.cwd()
    here = (folder / f"{root}.py").is_file() or next((folder / root).glob("*.py"), None) is not None
    if here and not {str(folder), ""} & set(sys.path):
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None if root in sys.modules else _missing(root, folder)
    if spec is None:
        return _missing(root, folder)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    if here and root not in sys.modules and not any(Path(place).is_relative_to(folder) for place in places if place):
        return f"{root} of the working directory is hidden by {spec.origin or places[-1]}; rename yours"
    return None


def _missing(root: str, folder: Path) -> str:
    return (
        f"there is no package {root} in {folder} (as {root}.py or {root}/) or among the installed packages; "
        f"start the command in the folder that holds {root}, or pip install it"
    )
