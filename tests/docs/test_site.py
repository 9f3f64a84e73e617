"""The documentation as a site: its map names what exists, its API pages name every package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


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


def test_every_module_has_its_place_in_the_api_pages() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: (nestvox[\w.]*)$", text, flags=re.MULTILINE)
    modules = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in (ROOT / "src" / "nestvox").rglob("[!_]*.py")
    }
    # Commands are documented by `nestvox COMMAND --help` and in the guide.
    wanted = {name for name in modules if not name.startswith("nestvox.cli.")}
    assert not wanted - set(shown), f"add '::: NAME' to a page of docs/api for {sorted(wanted - set(shown))}"
    assert not set(shown) - wanted, f"remove from docs/api: {sorted(set(shown) - wanted)}"
    assert len(shown) == len(set(shown))


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
