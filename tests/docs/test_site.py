"""The documentation as a site: its map names what exists, its API pages show what is public."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "nestvox"


def pages_of(navigation: object) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    children = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for child in children for page in pages_of(child)]


def test_map_and_pages_agree() -> None:
    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = pages_of(settings["project"]["nav"])
    assert len(named) == len(set(named))
    assert set(named) == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def public_names() -> dict[str, list[str]]:
    """What each package, and each module that is public itself, lists."""
    modules = [".".join(path.parent.relative_to(ROOT / "src").parts) for path in SOURCE.rglob("__init__.py")]
    listed = {
        name: importlib.import_module(name) for name in [*modules, "nestvox.errors", "nestvox.mrl", "nestvox.testing"]
    }
    return {name: module.__all__ for name, module in listed.items() if hasattr(module, "__all__")}


def test_api_pages_show_the_public_packages_and_nothing_else() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    assert sorted(re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)) == sorted(public_names())


def test_what_the_site_finds_in_a_package_is_what_it_lists() -> None:
    griffe = pytest.importorskip("griffe", reason="the group docs is not installed")
    package = griffe.load("nestvox", search_paths=[ROOT / "src"])
    for name, listed in public_names().items():
        members = (package[name.partition(".")[2]] if "." in name else package).members.values()
        assert {member.name for member in members if member.is_public and not member.is_module} == set(listed), name


def test_guides_and_examples_use_public_names_only() -> None:
    public, private = public_names(), []
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"^from (nestvox[\w.]*) import (\([^)]*\)|.*)$", text, flags=re.MULTILINE):
            unknown = set(re.findall(r"\w+", names)) - set(public.get(module, []))
            private += [f"{page.relative_to(ROOT)}: {module}.{name}" for name in sorted(unknown)]
        for dotted in re.findall(r"`(nestvox(?:\.\w+)+)\b", text):
            module, _, name = dotted.rpartition(".")
            if dotted not in public and name not in public.get(module, []):
                private.append(f"{page.relative_to(ROOT)}: {dotted}")
    assert not private, "\n".join(private)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        text = re.sub(r"^\s*(`{3,})[^\n]*\n.*?^\s*\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        inside = [target for target in targets if not re.match(r"[a-z]+:", target)]
        broken += [f"{page.relative_to(ROOT)}: {target}" for target in inside if not (page.parent / target).exists()]
    assert not broken, "\n".join(broken)


def test_every_guide_is_found_from_both_front_pages() -> None:
    guides = {path.relative_to(DOCS).as_posix() for path in (DOCS / "guide").glob("*.md")}
    for page, prefix in ((ROOT / "README.md", "docs/"), (DOCS / "index.md", "")):
        text = page.read_text(encoding="utf-8")
        missing = {guide for guide in guides if f"]({prefix}{guide})" not in text}
        assert not missing, f"{page.relative_to(ROOT)} does not name {sorted(missing)}"
