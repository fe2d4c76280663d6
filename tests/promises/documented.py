"""The commands that README and docs show, read from their code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("python", "mltrain", "torchrun", "pip", "pytest", "tensorboard", "ray", "sbatch", "srun")


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    line: int
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def tool(self) -> str | None:
        """The script of tools/ that it runs, by torchrun or without; `mltrain NAME` is the same as tools/NAME.py."""
        if self.program == "mltrain":
            return f"tools/{self.words[1]}.py"
        return next((word for word in self.words if re.fullmatch(r"tools/\w+\.py", word)), None)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What comes after the tool."""
        if self.program == "mltrain":
            return self.words[2:]
        return self.words[self.words.index(self.tool) + 1 :] if self.tool else self.words[1:]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def commands(pages: list[Path]) -> list[Command]:
    """Every command of the pages, in order."""
    return [command for page in pages for command in _of_page(page)]


def _of_page(page: Path) -> Iterator[Command]:
    text = page.read_text(encoding="utf-8")
    variables = dict(re.findall(r'^    (\w+)="([^"]*)"$', text, re.MULTILINE))  # as the page's shell has them
    lines = enumerate(text.splitlines(), start=1)
    for number, line in lines:
        while line.endswith("\\"):  # goes on in the next line
            line = line[:-1] + next(lines)[1].strip()
        if not re.match(rf"\s{{4,}}((\w+=\S* )*)({'|'.join(PROGRAMS)}) ", line):
            continue
        for name, value in variables.items():
            line = line.replace(f"${name}", " ".join(value.split()))
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # an environment variable
            words.pop(0)
        yield Command(page.name, number, tuple(words))
