"""Prompts in webui's syntax: texts and their weights."""

import logging

import pytest

from ldm.prompt import Section, parse

DOWN = 1 / 1.1

PROMPTS: dict[str, list[Section]] = {
    "": [[]],
    "a bird": [[("a bird", 1)]],
    "a (red) bird": [[("a ", 1), ("red", 1.1), (" bird", 1)]],
    "((red))": [[("red", 1.21)]],
    "(((red)))": [[("red", 1.331)]],
    "(red:1.2)": [[("red", 1.2)]],
    "(red: 1.2 )": [[("red", 1.2)]],
    "(red:.5) bird": [[("red", 0.5), (" bird", 1)]],
    "(red:-1)": [[("red", -1)]],
    "(red:+2)": [[("red", 2)]],
    "(a red bird:1)": [[("a red bird", 1)]],
    "a (red:1.0) bird": [[("a red bird", 1)]],
    "[red]": [[("red", DOWN)]],
    "[[red]] bird": [[("red", DOWN**2), (" bird", 1)]],
    "([red])": [[("red", 1)]],
    "((red:1.5) bird)": [[("red", 1.65), (" bird", 1.1)]],
    "(a [red:1.3) bird]": [[("a ", 1.3), ("red", 1.3 * DOWN), (" bird", DOWN)]],
    "(red)(bird)": [[("redbird", 1.1)]],
    r"red \(bird\) \[1\]": [[("red (bird) [1]", 1)]],
    r"(red \(bird\):1.4)": [[("red (bird)", 1.4)]],
    r"\\(red)": [[("\\", 1), ("red", 1.1)]],
    r"a\b": [[("ab", 1)]],
    "a (red bird": [[("a ", 1), ("red bird", 1.1)]],
    "((red bird": [[("red bird", 1.21)]],
    "a [red bird": [[("a ", 1), ("red bird", DOWN)]],
    "red) bird]": [[("red) bird]", 1)]],
    "red:1.2": [[("red:1.2", 1)]],
    "red:1.2)": [[("red:1.2)", 1)]],
    "(red:1.2.3)": [[("red:1.2.3", 1.1)]],
    "(red: bird)": [[("red: bird", 1.1)]],
    "()": [[]],
    "a BREAK b": [[("a", 1)], [("b", 1)]],
    "a\nBREAK\n(b)": [[("a", 1)], [("", 1), ("b", 1.1)]],
    "a BREAK BREAK b": [[("a", 1)], [("", 1)], [("b", 1)]],
    "a BREAK b (c)": [[("a", 1)], [("b ", 1), ("c", 1.1)]],
    "a BREAK": [[("a", 1)], [("", 1)]],
    "(a BREAK b:1.2) c": [[("a", 1.2)], [("b", 1.2), (" c", 1)]],
    "BREAKFAST, OUTBREAK, break": [[("BREAKFAST, OUTBREAK, break", 1)]],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_texts_and_weights(prompt: str, caplog: pytest.LogCaptureFixture) -> None:
    sections = parse(prompt)
    assert [[text for text, _ in one] for one in sections] == [[text for text, _ in one] for one in PROMPTS[prompt]]
    for got, expected in zip(sections, PROMPTS[prompt], strict=True):
        assert [weight for _, weight in got] == pytest.approx([weight for _, weight in expected])
    assert not caplog.messages


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "prompt",
    [
        "(red:1001)", "((red:999))", "(red:-1001)", f"(red:{'9' * 400})", f"((red:{'9' * 300}):{'9' * 300})",
        f"((red:0):{'9' * 400})",
    ],
)  # fmt: skip
def test_a_weight_that_is_too_large(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"prompt: 'red' has the weight .*, expected -1000 to 1000: use a smaller one"):
        parse(prompt)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"prompt: 'x+\.\.\.x+' has the weight 1001, expected") as raised:
        parse(f"({'x' * 10_000}:1001)")
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize(
    "prompt",
    ["[a" * 5000, "(" * 10_000, ")" * 10_000, "[" + ":" * 9999, "(a:" + "1" * 9997, ":" + " " * 9999, "<a:" * 3333,
     "<" + "a" * 9999, "\\" * 10_000, "BREAK " * 1666],
    ids=lambda prompt: prompt[:6],
)  # fmt: skip
def test_no_prompt_takes_minutes(prompt: str) -> None:
    """Three times longer than a prompt may be, these would take minutes if a regular expression backtracked."""
    sections = parse(3 * prompt)
    assert sum(len(text) for section in sections for text, _ in section) <= 3 * len(prompt)


def test_a_repeated_part_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    parse("a AND b AND c")
    assert caplog.messages[0].startswith("prompt: 'AND' read as text")


@pytest.mark.parametrize("part", ["<lora:birds:0.8>", "[cat:dog:0.5]", "[dog:0.5]", "[cat|dog]", "AND"])
def test_other_notations_are_text_with_a_warning(part: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sections = parse(f"a bird {part} (red)")
    assert "".join(text for text, _ in sections[0]) == f"a bird {part.strip('[]')} red"
    (message,) = caplog.messages
    assert message.startswith(f"prompt: {part!r} read as text, because <lora:...>, ")
