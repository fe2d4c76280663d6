"""Hooks of mkdocs: pages of options, commands and Python made from the code, formulas as MathML, headings as on GitHub.

The texts are those that the command line prints with --help, so that no page repeats them. Nothing here needs torch.
"""

from __future__ import annotations

import ast
import html
import importlib
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mltrain.cli import COMMANDS, CONFIG_FLAGS, RUN_HELP
from mltrain.config.option_help import described_options
from mltrain.config.overrides import EXPERIMENT, Source
from mltrain.config.schema import SECTIONS, RootOptions
from mltrain.config.topic_help import Description, Row, describe, headlines, section_rows

ROOT = Path(__file__).resolve().parents[2]
PYTHON = {
    "Training and predicting": "mltrain",
    "Losses": "mltrain.losses",
    "Metrics": "mltrain.metrics",
    "Models and heads": "mltrain.models",
    "Labels": "mltrain.labels",
    "Data sets": "mltrain.datasets",
    "Long tails": "mltrain.longtail",
    "Optimizers and schedules": "mltrain.optim",
    "Callbacks": "mltrain.callbacks",
    "Config": "mltrain.config",
}
"""the public packages"""


# -- hooks -------------------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.mdx_configs["toc"]["slugify"] = github_slug
    pages = {kind: list(made) for kind, made in generated().items()}
    config.nav = _with_generated(config.nav, pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for made in generated().values():
        for path, text in made.items():
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(text: str, page: Page, **_: Any) -> str:
    if page.file.generated_by is not None or page.file.src_uri.startswith("reference/"):
        up = "../" * page.file.src_uri.count("/")
        return re.sub(r"(?<!\()\bdocs/([a-z_/]+)(\.md)?\b(?![/.\w])", lambda m: _link_to_page(m[1], up), text)
    # A link that leaves the folder of the pages leads nowhere on the site: its text stays.
    depth = page.file.src_uri.count("/") + 1
    text = re.sub(rf"\[([^\]]+)\]\((?:\.\./){{{depth}}}[^)]+\)", r"\1", text)
    return with_fences(text)


def on_page_content(content: str, **_: Any) -> str:
    content = re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, content, flags=re.DOTALL)
    content = re.sub(
        r"(<a [^>]*>.*?</a>|<pre.*?</pre>|<code.*?</code>)|\b(arXiv[: ])(\d{4}\.\d{4,5})\b",
        lambda m: m[1] or f'<a href="https://arxiv.org/abs/{m[3]}">{m[2]}{m[3]}</a>',
        content,
        flags=re.DOTALL,
    )
    # Python-Markdown keeps the backslash that GitHub wants before | in the code of a table.
    return re.sub(r"(<td[^>]*>.*?</td>)", lambda m: m[1].replace(r"\|", "|"), content, flags=re.DOTALL)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    if found := re.search(r'<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>', output):
        raise PluginError(f"{page.file.src_uri} loads from the network: {found[0]}")
    return output


def github_slug(text: str, separator: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    text = re.sub(r"<[^>]+>", "", html.unescape(text)).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", separator)


def _mathml(match: re.Match[str]) -> str:
    return convert(html.unescape(match[2]).strip(), display="block" if match[1] == "div" else "inline")


def _with_generated(nav: Any, pages: dict[str, list[str]]) -> Any:
    if isinstance(nav, list):
        return [_with_generated(item, pages) for item in nav]
    if isinstance(nav, dict):
        return {key: _with_generated(item, pages) for key, item in nav.items()}
    kind = str(nav).removeprefix("GENERATED ")
    return pages[kind] if kind != nav else nav


def _link_to_page(name: str, up: str) -> str:
    file = f"{name}.md" if (ROOT / f"docs/{name}.md").is_file() else f"{name}/README.md"
    return f"[{name.replace('_', ' ')}]({up}{file})" if (ROOT / "docs" / file).is_file() else f"docs/{name}"


# -- generated pages ---------------------------------------------------------------------------------------------------


def generated() -> dict[str, dict[str, str]]:
    """Return path and Markdown text of the generated pages, by kind."""
    source = Source()
    groups = [group for group in source.groups() if group not in SECTIONS]
    options = {f"reference/options/{group}.md": group_page(group, source) for group in groups}
    options |= {f"reference/options/{name}.md": section_page(name) for name in SECTIONS}
    head = {"reference/options/index.md": options_index(groups, source)}
    commands = {"reference/commands/index.md": commands_index()}
    commands |= {f"reference/commands/{name}.md": command_page(name) for name in COMMANDS}
    python = {f"reference/python/{name.rpartition('.')[2]}.md": python_page(t, name) for t, name in PYTHON.items()}
    return {"options": head | options, "commands": commands, "python": python}


def options_index(groups: list[str], source: Source) -> str:
    rows = [
        ["Key", "What it sets"],
        *([f"[`{group}`]({group}.md)", f"{len(source.options(group))} options"] for group in groups),
        *([f"[`{name}`]({name}.md)", prose(str(section.__doc__))] for name, section in SECTIONS.items()),
    ]
    return "\n\n".join(
        [
            "# Options",
            "A config has groups, from which an option is chosen (`loss=asl`), and sections of single settings "
            "(`runner.epochs=20`). Each page lists every option with its default, type, range and meaning. "
            "`mltrain train --help loss=asl` prints the same.",
            table(rows),
            "## Settings of the root",
            option_table(section_rows(RootOptions, "")),
        ]
    )


def group_page(group: str, source: Source) -> str:
    plus = "+" if group == EXPERIMENT else ""
    named = headlines(group, source)
    rows = [["Option", "What it is"]]
    rows += [[f"[`{plus}{group}={name}`](#{anchor(group, name)})", prose(text)] for name, text in named.items()]
    parts = [f"# {group}", table(rows)]
    if group == "model":
        parts.append("Any model of timm works too, as `model=NAME`: `mltrain list models 'resnet*'` finds names.")
    parts += [described(group, name, describe(group, name, source)) for name in named]
    return "\n\n".join(parts)


def described(group: str, name: str, what: Description) -> str:
    parts = [f"## `{what.title}` {{#{anchor(group, name)}}}", prose(what.header)]
    if what.target:
        parts.append(f"Class or function: `{what.target}`")
    parts += [_paragraph(paragraph) for paragraph in re.split(r"\n\n+", what.about)]
    if what.brings:
        parts += ["It also chooses:", fence(" \\\n    ".join(what.brings), "text")]
    if what.sets:
        parts += ["It sets:", fence(what.sets, "yaml")]
    if what.rows:
        parts += [option_table(what.rows), fence(what.example, "bash")]
    return "\n\n".join(part for part in parts if part)


def section_page(name: str) -> str:
    rows = section_rows(SECTIONS[name], f"{name}.")
    return f"# {name}\n\n{prose(str(SECTIONS[name].__doc__))}\n\n{option_table(rows)}"


def commands_index() -> str:
    rows = [["Command", "What it does"]]
    rows += [[f"[`mltrain {name}`]({name}.md)", prose(about)] for name, about in COMMANDS.items()]
    intro = "`mltrain COMMAND --help` prints the text of each page."
    return f"# Commands\n\n{intro}\n\n{table(rows)}"


def command_page(name: str) -> str:
    command = importlib.import_module(f"mltrain.commands.{name}").COMMAND
    parts = [f"# mltrain {name}", help_text(command.about or "")]
    if command.options:
        rows = [["Option", "Default", "Meaning"]]
        for term, text in described_options(command.options).items():
            key, _, default = term.partition("=")
            rows.append([code(key), code(default), prose(text)])
        parts += ["## Options", table(rows)]
    if command.takes in ("config", "dataset"):
        flags = [["Flag", "Meaning"], *([code(flag), prose(text)] for flag, text in CONFIG_FLAGS.items())]
        what = "any part of the [config](../options/index.md)" if command.takes == "config" else "the data set"
        parts += ["## Flags", table(flags), f"`KEY=VALUE` sets {what}."]
    elif command.takes == "run":
        parts += ["## Run folder and config", prose(RUN_HELP)]
    return "\n\n".join(parts)


def python_page(title: str, package: str) -> str:
    parts = [f"# {title}", f"`import {package}`"]
    return "\n\n".join(parts + [f"::: {name}" for name in public_names(package)])


def public_names(package: str) -> list[str]:
    """Return the dotted names of `__all__`, or of the names that a package imports when they are used."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "__all__":
                return [f"{package}.{name}" for name in ast.literal_eval(node.value)]
            if node.targets[0].id == "_LATER":
                return [f"{module}.{name}" for name, module in ast.literal_eval(node.value).items()]
    raise ValueError(f"{package} has no __all__")


# -- Markdown ----------------------------------------------------------------------------------------------------------


def anchor(group: str, name: str) -> str:
    return f"{group}-{name}".replace("_", "-")


def prose(text: str) -> str:
    """Return plain text as Markdown: special characters outside of `code` are escaped."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"(https?://[^\s,;)]*[^\s,;).])", r"<\1>", _escaped(part)) for part in parts[::2]]
    return "".join(parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_<>\[\]|$#])(?![^\s]*://)", r"\\\1", text) if "://" not in text else text


def _paragraph(text: str) -> str:
    return fence(text, "text") if re.search(r"^ ", text, re.MULTILINE) else prose(text)


def help_text(text: str) -> str:
    """Return a help text as Markdown: indented lines are commands."""
    parts = []
    for block in re.split(r"\n\n+", text.strip()):
        indented = all(line.startswith("    ") for line in block.splitlines())
        parts.append(fence("\n".join(map(_example, block.splitlines())), "bash") if indented else prose(block))
    return "\n\n".join(parts)


def _example(line: str) -> str:
    """Return a line of a help text, `COMMAND   what it does`, with the description as a comment above the command."""
    command, _, about = re.sub(r" {3,}", "\0", line.strip(), count=1).partition("\0")
    return f"# {about}\n{command}" if about else command


def with_fences(text: str) -> str:
    """Put indented code blocks into fences with their language, which colours them; those of lists stay."""
    done: list[str] = []
    block: list[str] = []
    inside, in_list = False, False
    for line in [*text.splitlines(), ""]:
        inside ^= line.startswith("```")
        code_line = (
            line.startswith("    ") and not inside and not in_list and (block or not (done and done[-1].strip()))
        )
        if code_line or (block and not line.strip()):
            block.append(line[4:])
            continue
        if block:
            source = "\n".join(block).rstrip()
            done += [fence(source, language(source)), ""]
            block = []
        if line.strip() and not line.startswith(" "):
            in_list = bool(re.match(r"([-*]|\d+\.) ", line))
        done.append(line)
    if block:
        source = "\n".join(block).rstrip()
        done.append(fence(source, language(source)))
    return "\n".join(done)


def language(source: str) -> str:
    """Return the language of a code block, by its first line."""
    first = source.lstrip().partition("\n")[0]
    if re.match(r"(# .*|\w+=\S*|python|mltrain|torchrun|pip|pytest|srun|sbatch|ray|git|docker)( |$)", first):
        return "yaml" if first.startswith("# @package") else "bash"
    if re.match(r"(from \S+ import|import|class|def|loss|@\w+)\b", first):
        return "python"
    return "text"


def fence(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def option_table(rows: list[Row]) -> str:
    cells = [[code(row.key), code(row.default), prose(row.kind), prose(row.meaning)] for row in rows]
    return table([["Option", "Default", "Type and range", "Meaning"], *cells])
