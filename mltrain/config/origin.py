"""Position of a config key: the override, or the line of the file, that set it, for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mltrain.config.overrides import EXPERIMENT, Source


class Origin:
    """Finds where a key was set: in an override, or in a line of the experiment or group file."""

    def __init__(self, overrides: Sequence[str], choices: dict[str, Any], source: Source) -> None:
        self.keys = [raw.lstrip("+~").split("=", 1)[0] for raw in overrides]
        self.choices, self.source = choices, source
        self.experiments = [str(choices[EXPERIMENT])] if choices.get(EXPERIMENT) else []

    def __call__(self, path: str) -> str:
        for key in self.keys:
            if path == key or (path.startswith(key + ".") and key not in self.choices):
                return "from an override"
        keys = path.split(".")
        section, option = keys[0], self.choices.get(keys[0])
        for relative, inner in [
            *((f"{EXPERIMENT}/{name}.yaml", keys) for name in self.experiments),
            (f"{self.source.name}.yaml", keys),
            (f"{section}/{option}.yaml", keys[1:]),
            *((f"{group}/{self.choices.get(group)}.yaml", keys) for group in ("dataset", "model")),  # of other sections
        ]:
            file = self.source.file(relative)
            line = find_line(file, inner) if file is not None and inner else None
            if line is not None:
                ours = file is not None and file.is_relative_to(self.source.folder)
                return f"from {f'{self.source.folder.name}/{relative}' if ours else file}, line {line}"
        return ""


def find_line(file: Path, keys: Sequence[str]) -> int | None:
    """Return the line of a key in a YAML file, or None."""
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for key in keys:
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((name, value) for name, value in entries if name.value == key), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line
