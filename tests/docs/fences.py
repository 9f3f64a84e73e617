"""Fenced code blocks of a Markdown page, and what the comment before a block says about it.

The comment is `<!-- doctest: needs=speech,network slow -->` on the last line with text before the fence: invisible
wherever the page is shown.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LANGUAGES", "NEEDS", "Block", "blocks_of", "commands_of"]

RUN = frozenset({"bash", "console", "python"})
PARSED = frozenset({"json", "toml", "yaml"})
SHOWN = frozenset({"text"})
LANGUAGES = RUN | PARSED | SHOWN
NEEDS = frozenset({"install", "lists", "network", "speech"})

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_COMMENT = re.compile(r"^<!--\s*doctest:\s*(?P<words>.*?)\s*-->$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line of code stands, its language, its text, and what it needs."""

    path: Path
    line: int
    language: str
    text: str
    needs: frozenset[str]
    slow: bool

    @property
    def place(self) -> str:
        """File and line, as a person would look it up."""
        return f"{self.path.name}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Read every fenced block of a page.

    Raises:
        ValueError: a language or attribute is unknown, a comment precedes no block, or a fence is not closed.
    """
    blocks: list[Block] = []
    comment: tuple[int, str] | None = None
    opened: tuple[int, str, str, str] | None = None  # line, fence, indent, language
    content: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is not None:
            start, fence, indent, language = opened
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                text = "\n".join(row.removeprefix(indent) for row in content) + "\n"
                needs, slow = _attributes(comment, path)
                blocks.append(Block(path, start + 1, language, text, needs, slow))
                opened, comment, content = None, None, []
            else:
                content.append(line)
            continue
        if match := _FENCE.match(line):
            language = match["info"].strip()
            if language not in LANGUAGES:
                raise ValueError(
                    f"{path.name}:{number}: language {language!r}; known are {', '.join(sorted(LANGUAGES))}"
                )
            opened = (number, match["fence"], match["indent"], language)
        elif match := _COMMENT.match(line.strip()):
            if comment is not None:
                raise ValueError(f"{path.name}:{comment[0]}: the comment precedes no block")
            comment = (number, match["words"])
        elif comment is not None and line.strip():
            raise ValueError(f"{path.name}:{comment[0]}: the comment precedes no block")
    if opened is not None:
        raise ValueError(f"{path.name}:{opened[0]}: the block is not closed")
    if comment is not None:
        raise ValueError(f"{path.name}:{comment[0]}: the comment precedes no block")
    return blocks


def _attributes(comment: tuple[int, str] | None, path: Path) -> tuple[frozenset[str], bool]:
    needs: set[str] = set()
    slow = False
    line, words = comment or (0, "")
    for word in words.split():
        if word == "slow":
            slow = True
        elif word.startswith("needs=") and set(word[6:].split(",")) <= NEEDS:
            needs.update(word[6:].split(","))
        else:
            raise ValueError(f"{path.name}:{line}: {word!r}; known are slow and needs={','.join(sorted(NEEDS))}")
    return frozenset(needs), slow


def commands_of(block: Block) -> list[str]:
    r"""Shell commands of a block, lines that end in ``\`` joined; in `console` only what follows ``$ ``.

    Raises:
        ValueError: a `console` block holds no command.
    """
    commands: list[str] = []
    continues = False
    for line in block.text.splitlines():
        if continues:
            commands[-1] += "\n" + line
        elif block.language == "console":
            if not line.startswith("$ "):
                continue
            commands.append(line[2:])
        elif line.strip() and not line.lstrip().startswith("#"):
            commands.append(line)
        else:
            continue
        continues = line.endswith("\\")
    if block.language == "console" and not commands:
        raise ValueError(f"{block.place}: a console block without a line that begins with '$ '")
    for command in commands:
        shlex.split(command, comments=True)  # an unclosed quote is a ValueError here, not a hanging shell
    return commands
