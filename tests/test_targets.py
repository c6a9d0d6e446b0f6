"""The manifest and the folder of a target's engine files."""

from dataclasses import replace

import pytest
import torch

from cldm.engine_files import Target, expected_manifest
from cldm.prompt_syntax import PromptSyntax
from runtime.compiled_code import Tuning

CPU = torch.device("cpu")
TARGET = Target("small", 64, 64, 1, "fp32")


@pytest.mark.parametrize(
    ("field", "value", "differing"),
    [
        ("architecture", "sd15", {"architecture", "architecture_digest", "specs_digest"}),
        ("height", 128, {"height", "specs_digest"}),
        ("width", 128, {"width", "specs_digest"}),
        ("samples", 2, {"samples", "specs_digest"}),
        ("precision", "fp16", {"precision", "specs_digest"}),
    ],
)
def test_manifest_and_folder_of_another_target_differ(field: str, value: object, differing: set[str]) -> None:
    other = replace(TARGET, **{field: value})  # type: ignore[arg-type]
    assert other.folder != TARGET.folder
    one, another = expected_manifest(TARGET, CPU).facts, expected_manifest(other, CPU).facts
    assert {name for name in one if one[name] != another[name]} == differing


def test_plain_prompts_do_not_show_in_folder_and_manifest() -> None:
    assert TARGET.folder.name == "inductor_small_64x64x1_fp32"
    assert TARGET.size == (64, 64, 1)
    assert not [name for name in expected_manifest(TARGET, CPU).facts if "prompt" in name]


def test_each_prompt_syntax_and_number_of_chunks_has_its_own_engine_files() -> None:
    plain, one, two = (
        replace(TARGET, syntax=syntax) for syntax in (TARGET.syntax, PromptSyntax("webui"), PromptSyntax("webui", 2))
    )
    assert [target.folder.name for target in (one, two)] == [f"{plain.folder.name}_webui{chunks}" for chunks in (1, 2)]
    facts = [expected_manifest(target, CPU).facts for target in (plain, one, two)]
    assert [one.get("prompt_syntax") for one in facts] == [None, "webui, 1 chunk", "webui, 2 chunks"]
    assert len({one["specs_digest"] for one in facts}) == 3


def test_tuning_is_part_of_the_manifest() -> None:
    tuned = expected_manifest(TARGET, CPU, Tuning(max_autotune_gemm=True)).facts
    usual = expected_manifest(TARGET, CPU).facts
    assert tuned["tuning.max_autotune_gemm"] is True
    assert {name: usual[f"tuning.{name}"] for name in Tuning().options()} == Tuning().options()
