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
        """Return the words after the tool."""
        if self.program == "mltrain":
            return self.words[2:]
        return self.words[self.words.index(self.tool) + 1 :] if self.tool else self.words[1:]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def commands(pages: list[Path]) -> list[Command]:
    """Every command of the pages, in order."""
    return [command for page in pages for command in _of_page(page)]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _of_page(page: Path) -> Iterator[Command]:
    text = page.read_text(encoding="utf-8")
    # as the page's shell has them
    variables = dict(re.findall(r'^(?:    )?(\w+)="([^"]*)"$', text, re.MULTILINE))
    lines = enumerate(text.splitlines(), start=1)
    fence = ""
    for number, line in lines:
        if mark := re.match(r"\s*```(\w*)", line):
            fence = "" if fence else mark[1] or "text"
            continue
        while line.endswith("\\"):  # goes on in the next line
            line = line[:-1] + next(lines)[1].strip()
        shell = r"\s*" if fence in ("bash", "sh") else r"\s{4,}"
        if not re.match(rf"{shell}((\w+=\S* )*)({'|'.join(PROGRAMS)}) ", line):
            continue
        for name, value in variables.items():
            line = line.replace(f"${name}", " ".join(value.split()))
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # an environment variable
            words.pop(0)
        yield Command(page.name, number, tuple(words))
