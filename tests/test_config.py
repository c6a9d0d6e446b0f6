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
        ("text", 3, r"odd\.yaml: text: got 3, expected a mapping with the fields of TextConfig"),
    ],
)
def test_error_names_a_wrong_field(models: Path, place: str, value: Any, message: str) -> None:
    (models / "odd.yaml").write_text(yaml.safe_dump(with_field(place, value)))
    with pytest.raises(ValueError, match=message):
        load_architecture("odd")


@pytest.mark.parametrize("text", ["", "- unet\n", "unet", "unet: [1, 2", "unet: {\x00}"])
def test_error_names_a_file_that_is_not_a_mapping(models: Path, text: str) -> None:
    (models / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        load_architecture("odd")
