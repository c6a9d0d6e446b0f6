"""README in both languages: the same content, links that lead somewhere, and an example that runs."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [ENGLISH, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sections(page: Path) -> list[str]:
    """Return the text of each section, headings included; the first is everything before the first heading."""
    text = BLOCK.sub("", page.read_text())
    return re.split(r"^(?=#)", text, flags=re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the lines of each code block, without comments and runs of spaces; drawings only by their count."""
    blocks = BLOCK.findall(page.read_text())
    lines = [[" ".join(line.split("#")[0].split()) for line in block.splitlines()] for block in blocks]
    return [[] if "─" in block else [line for line in cut if line] for cut, block in zip(lines, blocks, strict=True)]


def test_both_languages_have_the_same_headings() -> None:
    levels = [[len(section) - len(section.lstrip("#")) for section in sections(page)] for page in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_both_languages_have_the_same_commands() -> None:
    assert len(commands(ENGLISH)) >= 5
    assert commands(ENGLISH) == commands(CHINESE)


@pytest.mark.parametrize("kind", [r"`[^`]+`", r"\d+(?:\.\d+)?(?!\d*\])", r"\]\([^)]+\.(?:jpg|png|md)\)", r"^\|"])
def test_each_section_has_the_same_names_figures_links_and_rows(kind: str) -> None:
    for english, chinese in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        found = [Counter(re.findall(kind, text, re.MULTILINE)) for text in (english, chinese)]
        for link in ("](README.md)", "](README.zh-CN.md)"):  # each page links to the other
            for counter in found:
                counter.pop(link, None)
        assert found[0] == found[1], english.splitlines()[:1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if link]
    assert all((page.parent / link).exists() for link in links), links
    files = re.findall(r"`((?:\w+/)+[\w.]*\.\w+|(?:\w+/)+)`", text)
    made = ("models/engines/", "models/tokenizer/", "models/control_sd15_canny.pth", "score/")  # not in the repository
    missing = [file for file in files if not (ROOT / file).exists() and not file.startswith(made)]
    assert missing == []


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=lambda page: page.name)
def test_anchors_exist(page: Path) -> None:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page.read_text())) <= anchors


def test_the_example_is_the_script() -> None:
    script = (ROOT / "examples" / "one_picture.py").read_text().split('"""\n\n', 1)[1]
    assert f"```python\n{script}```" in ENGLISH.read_text()
