from pathlib import Path
from typing import Any

import pytest
import yaml

import ldm.config
from ldm.config import load_architecture

SMALL = yaml.safe_load((ldm.config.MODELS / "small.yaml").read_text())


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ldm.config, "MODELS", tmp_path)
    return tmp_path


def with_field(place: str, value: Any) -> dict[str, Any]:
    """Return the fields of the small architecture with "section.name" or "name" set to `value`; None removes it."""
    *section, name = place.split(".")
    values = {key: dict(fields) for key, fields in SMALL.items()}
    target = values[section[0]] if section else values
    target[name] = value
    if value is None:
        del target[name]
    return values


@pytest.mark.parametrize("name", ["sd15", "small"])
def test_shipped_files_load_with_their_values(name: str) -> None:
    text = yaml.safe_load((ldm.config.MODELS / f"{name}.yaml").read_text())
    architecture = load_architecture(name)
    assert architecture.unet.channel_mult == tuple(text["unet"]["channel_mult"])
    assert architecture.vae.scale_factor == text["vae"]["scale_factor"]
    assert architecture.text.vocabulary == text["text"]["vocabulary"]
    assert hash(architecture) == hash(load_architecture(name)), "equal architectures have different hashes"


def test_error_of_an_unknown_name_lists_the_known_ones(models: Path) -> None:
    (models / "odd.yaml").write_text("")
    (models / "even.yaml").write_text("")
    with pytest.raises(ValueError, match=r"'sd16': expected one of even, odd"):
        load_architecture("sd16")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("unet.colour", 1, r"odd\.yaml: unet: unknown field 'colour', expected in_channels, "),
        ("sampler", {}, r"odd\.yaml: unknown field 'sampler', expected unet, "),
        ("unet.heads", None, r"odd\.yaml: unet: missing field 'heads' of UNetConfig"),
        ("schedule", None, r"odd\.yaml: missing field 'schedule' of Architecture"),
        ("unet.heads", "8", r"odd\.yaml: unet: heads: got '8', expected int"),
        ("unet.heads", 8.0, r"odd\.yaml: unet: heads: got 8\.0, expected int"),
        ("unet.heads", True, r"odd\.yaml: unet: heads: got True, expected int"),
        ("vae.scale_factor", "0.2", r"odd\.yaml: vae: scale_factor: got '0\.2', expected float"),
        ("unet.channel_mult", 3, r"odd\.yaml: unet: channel_mult: got 3, expected a list of integers"),
        ("vae.channel_mult", [1, 2.5], r"odd\.yaml: vae: channel_mult: got \[1, 2\.5\], expected a list of integers"),
        ("vae.channel_mult", [1, True], r"odd\.yaml: vae: channel_mult: got \[1, True\], expected a list of integers"),
        ("text.width", 10**400, r"odd\.yaml is not valid YAML|text: width: got an integer of more than 100 digits"),
        ("text.width", 0, r"odd\.yaml: text: width: got 0, expected 1 to 65536"),
        ("vae.channels", -8, r"odd\.yaml: vae: channels: got -8, expected 1 to 65536"),
        ("vae.channels", 10**12, r"odd\.yaml: vae: channels: got 1000000000000, expected 1 to 65536"),
        ("text.layers", 65, r"odd\.yaml: text: layers: got 65, expected 1 to 64"),
        ("unet.channel_mult", [], r"odd\.yaml: unet: channel_mult: got 0 levels, expected 1 to 4"),
        ("unet.channel_mult", [1, 2, 3, 3, 3], r"odd\.yaml: unet: channel_mult: got 5 levels, expected 1 to 4"),
        ("unet.channel_mult", [1, 2, 3, 0], r"odd\.yaml: unet: channel_mult: got 0, expected 1 to 64"),
        ("unet.model_channels", 2048 * 16, r"odd\.yaml: unet: got 98304 channels, expected at most 65536"),
        ("control.hint_channels", [8, 16], r"odd\.yaml: control: hint_channels: got 2 levels, expected 4"),
        ("unet.attention_levels", [0, 4], r"odd\.yaml: unet: attention_levels: got \(0, 4\), expected some of"),
        ("unet.attention_levels", [-1], r"odd\.yaml: unet: attention_levels: got -1, expected 0 to"),
        ("unet.heads", 5, r"odd\.yaml: unet: heads: got 5, expected a divisor of the widths"),
        ("unet.groups", 7, r"odd\.yaml: unet: groups: got 7, expected a divisor of the widths"),
        ("vae.groups", 7, r"odd\.yaml: vae: groups: got 7, expected a divisor of the widths"),
        ("text.heads", 7, r"odd\.yaml: text: heads: got 7, expected a divisor of the width 96"),
        ("unet.context_width", 64, r"odd\.yaml: unet: context_width: got 64, expected the text's width 96"),
        ("vae.latent_channels", 16, r"odd\.yaml: unet: in_channels: got 4, expected the VAE's latent_channels 16"),
        ("vae.scale_factor", float("nan"), r"odd\.yaml: vae: scale_factor: got nan, expected a finite number above 0"),
        ("schedule.beta_start", float("inf"), r"odd\.yaml: schedule: got 1000 steps from inf"),
        ("schedule.steps", 999, r"odd\.yaml: schedule: got 999 steps"),
        ("text", 3, r"odd\.yaml: text: got 3, expected a mapping with the fields of TextConfig"),
    ],
)
def test_error_names_a_wrong_field(models: Path, place: str, value: Any, message: str) -> None:
    (models / "odd.yaml").write_text(yaml.safe_dump(with_field(place, value)))
    with pytest.raises(ValueError, match=message):
        load_architecture("odd")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- unet\n",
        "unet",
        "unet: [1, 2",
        "unet: {\x00}",
        "unet:\n\tgroups: 3",
        "{1: 2, unet: 3, null: 4, [a]: 5}",
        "? {a: b}\n: c",
        "[" * 5000,
        "a: &a [*a]",
        "unet: &a\n  unet: *a",
        BOMB,
        BOMB + "unet: *a59",
        f"unet: {'9' * 5000}",
        "unet: !!bool x",
        "unet: !!timestamp x",
        "unet: !!int ''",
        "unet: 2001-99-99",
        "unet: !!python/object/apply:os.getcwd []",
    ],
    ids=range(19),
)
def test_error_names_a_file_that_is_not_an_architecture(models: Path, text: str) -> None:
    (models / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml.*(: restore the file|expected|missing)") as caught:
        load_architecture("odd")
    assert len(str(caught.value).splitlines()) == 1


def test_error_names_a_key_that_is_given_twice(models: Path) -> None:
    text = yaml.safe_dump(SMALL)
    (models / "odd.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_architecture("odd") == load_architecture("odd")
    (models / "odd.yaml").write_text(text.replace("  groups:", "  groups: 3\n  groups:"))
    with pytest.raises(ValueError, match=r"odd\.yaml is not valid YAML \(the key 'groups' is given twice\)"):
        load_architecture("odd")
    for damaged in (b"\x89PNG\r\n\x1a\n", b"\xff\xfe\x00", b"\x80abc"):
        (models / "odd.yaml").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"odd\.yaml is not valid YAML"):
            load_architecture("odd")


@pytest.mark.parametrize(
    "name", ["", "../small", "small.yaml", "a\0b", "x" * 5000, "\ud800", "*", "small/"], ids=range(8)
)
def test_names_that_no_architecture_has(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown architecture .*: expected one of sd15, small"):
        load_architecture(name)
    for wrong in (None, b"small", Path("small"), 3, ["small"]):
        with pytest.raises(TypeError, match=r"architecture: got .*, expected the name of a file"):
            load_architecture(wrong)  # type: ignore[arg-type]
