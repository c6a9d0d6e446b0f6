"""Weights in the layouts that people have load to the same tensors; every other file is named for what it is."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
import safetensors.torch
import torch
from torch import Tensor

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL, SMALL_TOKENIZER, Checkpoint
from cldm.checkpoint_choice import find_checkpoint
from cldm.request import Request
from ldm.config import load_architecture
from ldm.diffusers_layout import OLD_VAE, PARTS, diffusers_name
from ldm.weights import CheckpointError
from scoring.pictures import DRAWN_BIRDS, find_pictures

SMALL = load_architecture("small")
Tensors = dict[str, Tensor]
STEMS = {"text_encoder": ("model", "pytorch_model")}


@pytest.fixture(scope="module")
def whole() -> Tensors:
    return dict(Checkpoint(str(SMALL_MODEL), "small", "given").load_model().state_dict())


@pytest.fixture(scope="module")
def base(whole: Tensors) -> Tensors:
    return {name: tensor for name, tensor in whole.items() if not name.startswith("control_model.")}


@pytest.fixture(scope="module")
def control(whole: Tensors) -> Tensors:
    return {name: tensor for name, tensor in whole.items() if name.startswith("control_model.")}


def save(tensors: Mapping[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(dict(tensors), path)
    return path


def bare(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def in_diffusers(whole: Tensors, part: str) -> Tensors:
    prefix = next(prefix for prefix, name in PARTS.items() if name == part)
    named = {diffusers_name(name, part, SMALL): tensor for name, tensor in bare(whole, prefix).items()}
    return {
        name: tensor[..., 0, 0] if part == "vae" and "mid_block.attentions" in name and tensor.dim() == 4 else tensor
        for name, tensor in named.items()
        if not name.endswith("position_ids")
    }


def load(name: object, **options: Any) -> Tensors:
    return dict(find_checkpoint(str(name), **options).load_model(torch.device("cpu")).state_dict())


def assert_same(loaded: Tensors, expected: Tensors) -> None:
    assert loaded.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(loaded[name], expected[name])] == []


def with_ema(whole: Tensors) -> Tensors:
    names = [name for name in whole if name.startswith("model.diffusion_model.")]
    ema = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": whole[name] * 0 for name in names[:9]}
    extra = {
        "model_ema.decay": torch.ones(1),
        "cond_stage_model.logit_scale": torch.ones(1),
        "cond_stage_model.text_projection": torch.ones(2, 2),
        "loss.discriminator.main.0.weight": torch.ones(2),
        "first_stage_model.loss.logvar": torch.ones(1),
        "denoiser.sigmas": torch.ones(1000),
    }
    return whole | ema | extra


def without(whole: Tensors, *parts: str) -> Tensors:
    return {name: tensor for name, tensor in whole.items() if not any(part in name for part in parts)}


def only_weights(whole: Tensors) -> Tensors:
    return {name: tensor for name, tensor in whole.items() if "." in name}


WHOLE: dict[str, Callable[[Tensors], Mapping[str, Any]]] = {
    "whole.pth": dict,
    "whole.safetensors": dict,
    "nested.ckpt": lambda whole: {
        "state_dict": whole,
        "global_step": 840000,
        "epoch": 10,
        "pytorch-lightning_version": "1",
    },
    "counted.ckpt": lambda whole: {**whole, "global_step": 3},
    "ema.safetensors": with_ema,
    "without_position_ids.safetensors": lambda whole: without(whole, "position_ids"),
    "wrong_position_ids.pth": lambda whole: {
        name: tensor.half() + 0.3 if name.endswith("position_ids") else tensor for name, tensor in whole.items()
    },
    "without_schedule.safetensors": only_weights,
    "half.safetensors": lambda whole: cast(whole, torch.float16),  # the small model's weights are halves
    "wrapped.pt": lambda whole: {"model": whole, "epoch": 3, "optimizer": {"lr": 0.1}},
    "parallel.pt": lambda whole: {"module": {f"module.{name}": tensor for name, tensor in whole.items()}},
    "without_text_model.safetensors": lambda whole: {name.replace(".text_model.", "."): t for name, t in whole.items()},
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files(name: str, whole: Tensors, tmp_path: Path) -> None:
    assert_same(load(save(WHOLE[name](whole), tmp_path / name)), whole)


def test_harmless_tensors_are_logged_once(whole: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    load(save(with_ema(whole), tmp_path / "ema.safetensors"))
    assert [m for m in caplog.messages if "ignored" in m] == [
        f"{tmp_path}/ema.safetensors: ignored 15 unused tensors, such as cond_stage_model.logit_scale"
    ]


def test_bfloat16_gets_the_computed_schedule(whole: Tensors, tmp_path: Path) -> None:
    loaded = load(save(cast(whole, torch.bfloat16), tmp_path / "bf16.pth"))
    for name, tensor in whole.items():
        rounded = "." in name and tensor.is_floating_point()
        assert torch.equal(loaded[name], tensor.bfloat16().float() if rounded else tensor), name


def test_pictures_of_bfloat16_weights_are_near(whole: Tensors, tmp_path: Path) -> None:
    runtime = hackathon(str(SMALL_MODEL), plan="all", device="cpu")
    runtime.initialize()
    bird = find_pictures(DRAWN_BIRDS)["bird_1"]
    request = Request.contest(bird, prompt="a blue bird in the mountains", ddim_steps=10, image_resolution=128)
    exact = runtime.draw(request)[0]
    runtime.load_weights(str(save(cast(whole, torch.bfloat16), tmp_path / "bf16.pth")))
    assert 45 < cv2.PSNR(exact, runtime.draw(request)[0]) < 100


def difference(base: Tensors, control: Tensors) -> Tensors:
    twins = {name: name.replace("control_model.", "model.diffusion_model.") for name in control}
    changed = {name: tensor - base[twins[name]] if twins[name] in base else tensor for name, tensor in control.items()}
    return changed | {"difference": torch.ones(())}


CONTROL: dict[str, Callable[[Tensors, Tensors], Tensors]] = {
    "control.pth": lambda base, control: control,
    "bare.safetensors": lambda base, control: bare(control, "control_model."),
    "half.safetensors": lambda base, control: cast(bare(control, "control_model."), torch.float16),
    "diffusers.bin": lambda base, control: in_diffusers(control, "controlnet"),
    "whole.pth": lambda base, control: base | control,
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_file_next_to_a_base_file(
    name: str, whole: Tensors, base: Tensors, control: Tensors, tmp_path: Path
) -> None:
    (tmp_path / "control").mkdir()
    pair = save(base, tmp_path / "base.safetensors"), save(CONTROL[name](base, control), tmp_path / "control" / name)
    assert_same(load(f"{pair[0]}:{pair[1]}"), whole)


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_difference_is_added_to_the_base(
    prefix: str, whole: Tensors, base: Tensors, control: Tensors, tmp_path: Path
) -> None:
    changed = {name.replace("control_model.", prefix): tensor for name, tensor in difference(base, control).items()}
    file = save(changed, tmp_path / "difference.safetensors")
    loaded = load(f"{save(base, tmp_path / 'base.safetensors')}:{file}")
    assert max(float((loaded[name] - whole[name]).abs().max()) for name in whole) < 1e-6
    zero = "control_model.zero_convs.3.0.weight"
    assert torch.equal(loaded[zero], whole[zero])


def stems(part: str) -> tuple[str, str]:
    return STEMS.get(part, ("diffusion_pytorch_model", "diffusion_pytorch_model"))


def shard(tensors: Tensors, folder: Path, stem: str, index: str) -> None:
    names = list(tensors)
    halves = {f"{stem}-{i}-of-2.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, some in halves.items():
        save({name: tensors[name] for name in some}, folder / file)
    where = {name: file for file, some in halves.items() for name in some}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def old_attention(tensors: Tensors, part: str) -> Tensors:
    for new, old in OLD_VAE.items() if part == "vae" else ():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    return tensors


def no_level(tensors: Tensors, part: str) -> Tensors:
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


FOLDERS: dict[str, Callable[[Tensors, Path, str], object]] = {
    "plain": lambda tensors, folder, part: save(tensors, folder / f"{stems(part)[0]}.safetensors"),
    "bin": lambda tensors, folder, part: save(tensors, folder / f"{stems(part)[1]}.bin"),
    "fp16": lambda tensors, folder, part: save(
        cast(tensors, torch.half), folder / f"{stems(part)[0]}.fp16.safetensors"
    ),
    "fp16 bin": lambda tensors, folder, part: save(cast(tensors, torch.half), folder / f"{stems(part)[1]}.fp16.bin"),
    "non_ema": lambda tensors, folder, part: save(tensors, folder / f"{stems(part)[0]}.non_ema.safetensors"),
    "sharded": lambda tensors, folder, part: shard(
        tensors, folder, stems(part)[0], f"{stems(part)[0]}.safetensors.index.json"
    ),
    "sharded fp16": lambda tensors, folder, part: shard(
        cast(tensors, torch.half), folder, stems(part)[0], f"{stems(part)[0]}.safetensors.index.fp16.json"
    ),
    "old VAE": lambda tensors, folder, part: save(
        old_attention(tensors, part), folder / f"{stems(part)[0]}.safetensors"
    ),
    "no text_model": lambda tensors, folder, part: save(
        no_level(tensors, part), folder / f"{stems(part)[0]}.safetensors"
    ),
}


def pipeline(whole: Tensors, root: Path, kind: str = "plain") -> Path:
    for part in PARTS.values():
        (root / part).mkdir(parents=True)
        FOLDERS[kind](in_diffusers(whole, part), root / part, part)
    return root


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, whole: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline", kind)
    assert_same(load(root), whole)


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_control_folder_elsewhere(kind: str, whole: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline", kind)
    (root / "controlnet").rename(tmp_path / "controlnet")
    assert_same(load(f"{root}:{tmp_path / 'controlnet'}"), whole)


def test_folder_and_file_mixed(whole: Tensors, control: Tensors, base: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline")
    assert_same(load(f"{root}:{save(control, tmp_path / 'control.pth')}"), whole)
    assert_same(load(f"{save(base, tmp_path / 'base.ckpt')}:{root / 'controlnet'}"), whole)
    assert_same(load(f"{tmp_path / 'base.ckpt'}:{root}"), whole)


def test_full_precision_is_preferred(whole: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline", "bin")
    for part in PARTS.values():
        FOLDERS["fp16"]({name: t * 0 for name, t in in_diffusers(whole, part).items()}, root / part, part)
    assert_same(load(root), whole)


def test_hugging_face_cache(whole: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--somebody--birds"
    blobs = pipeline(whole, root / "blobs")
    snapshot = root / "snapshots" / "c0ffee"
    for file in [file for file in blobs.rglob("*") if file.is_file()]:
        (snapshot / file.relative_to(blobs)).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file.relative_to(blobs)).symlink_to(file)
    (root / "snapshots" / "older").mkdir()
    with pytest.raises(CheckpointError, match=r"holds 2 snapshots, none of them in refs/main: give the path of one"):
        load("somebody/birds", architecture="small")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    for name in ("somebody/birds", root, snapshot):
        assert_same(load(name), whole)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"is a link to .*, which does not exist: fetch it again"):
        load("somebody/birds", architecture="small")


def test_small_model_is_known_by_content(whole: Tensors, tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(SMALL_MODEL)
    shutil.copy(SMALL_MODEL, tmp_path / "copy.ckpt")
    for name in ("link.safetensors", "copy.ckpt"):
        assert find_checkpoint(tmp_path / name).architecture == "small"
        assert_same(load(tmp_path / name), whole)


def test_other_vae(whole: Tensors, tmp_path: Path) -> None:
    other = {name: tensor * 1.5 if name.startswith("first_stage_model.") else tensor for name, tensor in whole.items()}
    root = pipeline(other, tmp_path / "pipeline")
    files = [
        save(bare(other, "first_stage_model."), tmp_path / "vae.pt"),
        save(cast(in_diffusers(other, "vae"), torch.float32), tmp_path / "diffusers.safetensors"),
        save({name: t for name, t in other.items() if name.startswith("first_stage_model.")}, tmp_path / "prefix.pt"),
        root / "vae",
        root,
    ]
    for file in files:
        assert_same(load(SMALL_MODEL, vae=str(file)), other)
    without_vae = save({n: t for n, t in whole.items() if not n.startswith("first_stage_model.")}, tmp_path / "no.pt")
    assert_same(load(without_vae, vae=str(files[0])), other)
    with pytest.raises(CheckpointError, match=r"no\.pt has no vae: give a complete"):
        load(without_vae)
    one = find_checkpoint(SMALL_MODEL)
    assert one.fingerprint() != find_checkpoint(SMALL_MODEL, vae=str(files[0])).fingerprint()
    config = root / "vae" / "config.json"
    config.write_text(json.dumps({"scaling_factor": 0.13025}))
    with pytest.raises(CheckpointError, match=r"scaling_factor 0.13025, expected 0.18215: this VAE belongs to another"):
        load(SMALL_MODEL, vae=str(root))


def narrow(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda whole: whole | {name: torch.zeros(*shape)}


QUERY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
REFUSED: dict[str, tuple[Callable[[Tensors], Mapping[str, Any]], str]] = {
    "control": (
        lambda whole: {n: t for n, t in whole.items() if n.startswith("control_model.")},
        "is a ControlNet alone",
    ),
    "base": (
        lambda whole: {n: t for n, t in whole.items() if not n.startswith("control_model.")},
        "without a ControlNet",
    ),
    "vae": (lambda whole: bare(whole, "first_stage_model."), "is a VAE alone: give it as vae="),
    "unet": (lambda whole: bare(whole, "model.diffusion_model."), "is a UNet alone"),
    "text": (lambda whole: in_diffusers(whole, "text_encoder"), "is a text encoder alone"),
    "kohya": (lambda whole: {"lora_unet_mid_block.lora_up.weight": torch.ones(1)}, "is a LoRA: give it as loras="),
    "peft": (lambda whole: {"unet.mid_block.to_q.lora_A.weight": torch.ones(1)}, "is a LoRA: give it as loras="),
    "embedding": (lambda whole: {"emb_params": torch.ones(2, 96)}, "is a textual-inversion embedding"),
    "word": (lambda whole: {"<my-cat>": torch.ones(96)}, "is a textual-inversion embedding"),
    "pickled embedding": (
        lambda whole: {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 96)}},
        "is a textual-inversion embedding",
    ),
    "xl": (lambda whole: {"conditioner.embedders.0.x": torch.ones(1)}, "is a Stable Diffusion XL checkpoint"),
    "xl base": (
        lambda whole: {"model.diffusion_model.label_emb.0.0.weight": torch.ones(1)},
        "is a Stable Diffusion XL",
    ),
    "sd2": (
        lambda whole: {"cond_stage_model.model.ln_final.bias": torch.ones(1)},
        "is a Stable Diffusion 2 checkpoint",
    ),
    "sd2 width": (narrow(QUERY, 320, 1024), "is a Stable Diffusion 2 network"),
    "inpainting": (narrow("model.diffusion_model.input_blocks.0.0.weight", 32, 9, 3, 3), "is an inpainting checkpoint"),
    "v": (lambda whole: {**whole, "v_pred": torch.ones(1)}, "is a checkpoint that predicts v"),
    "int8": (
        lambda whole: {**whole, QUERY: whole[QUERY].to(torch.int8)},
        r"is a torch\.int8 tensor, .* quantized",
    ),
    "complex": (lambda whole: {**whole, QUERY: whole[QUERY].to(torch.complex64)}, "is a torch.complex64 tensor"),
    "sparse": (lambda whole: {**whole, QUERY: whole[QUERY].to_sparse()}, "expected dense floating-point weights"),
    "meta": (lambda whole: {**whole, QUERY: whole[QUERY].to("meta")}, "is a meta tensor of torch.float"),
    "complex schedule": (lambda whole: {**whole, "betas": whole["betas"] + 0j}, "betas is a torch.complex64 tensor"),
    "VAE encoder": (
        lambda whole: {n: t for n, t in bare(whole, "first_stage_model.").items() if n.startswith("encoder.")},
        "is a VAE alone: give it as vae=",
    ),
    "foreign": (
        lambda whole: {**whole, "strange.weight": torch.ones(1)},
        "holds 1 tensors that the model does not have",
    ),
    "one missing": (
        lambda whole: without(whole, "middle_block.0.in_layers.2.bias"),
        "2 missing, first model.diffusion",
    ),
    "linear betas": (lambda whole: {**whole, "betas": torch.linspace(8.5e-4, 0.012, 1000)}, "another noise schedule"),
    "zero SNR": (
        lambda whole: {**whole, "alphas_cumprod": whole["alphas_cumprod"] - whole["alphas_cumprod"][-1]},
        "another noise schedule and would generate garbage",
    ),
    "short schedule": (lambda whole: {**whole, "betas": torch.ones(500)}, r"betas has \[500\] values"),
    "NaN schedule": (lambda whole: {**whole, "betas": torch.full((1000,), torch.nan)}, "another noise schedule"),
    "NaN": (narrow("model.diffusion_model.out.2.bias", 0), "out.2.bias"),
    "objects": (lambda whole: {"state_dict": whole, "callbacks": Path("x")}, "holds Python objects other than tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_named(kind: str, whole: Tensors, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    path = tmp_path / "file.pth"
    torch.save(make(whole), path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load(path, architecture="small")
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


CONFIGS = [
    ({"prediction_type": "v_prediction"}, "prediction_type 'v_prediction', expected 'epsilon'"),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True, expected False"),
    ({"beta_schedule": "linear"}, "beta_schedule 'linear', expected 'scaled_linear'"),
    ({"beta_end": 0.02}, "beta_end 0.02, expected 0.012"),
    ([], "is not a JSON object"),
    *(
        ({name: wrong}, f"is damaged: {name} is {wrong!r}, expected ")
        for name, wrong in (
            ("beta_end", None),
            ("beta_start", "0.00085"),
            ("num_train_timesteps", "1000"),
            ("prediction_type", None),
            ("rescale_betas_zero_snr", 0),
        )
    ),
    ({"beta_end": float("nan")}, r"is not valid JSON \(the number 'NaN' is not finite\): fetch it again"),
]


USUAL = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear", "beta_end": 0.012, "skip_prk_steps": True}


@pytest.fixture(scope="module")
def scheduled(whole: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pipeline folder with the usual scheduler, which loads."""
    root = pipeline(whole, tmp_path_factory.mktemp("scheduled") / "pipeline")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(USUAL))
    load(root)
    return root


@pytest.mark.parametrize(("config", "sentence"), CONFIGS)
def test_scheduler_of_another_kind(config: Any, sentence: str, scheduled: Path) -> None:
    file = scheduled / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(USUAL | config if isinstance(config, dict) else config))
    with pytest.raises(CheckpointError, match=sentence):
        load(scheduled)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("https://example.org/model.safetensors", "is an address, and nothing is fetched: download the file"),
        ("hf://somebody/birds", "is an address"),
        ("a:b:c", "expected BASE or BASE:CONTROL with two paths that exist; a path with a ':' in it"),
        (":control.pth", "expected BASE or BASE:CONTROL"),
        ("base.pth:", "expected BASE or BASE:CONTROL"),
        ("~nobody-here/x", "is no usable path"),
        ("x" * 300, "is no usable path"),
        ("nobody/nothing", "does not exist, and the Hugging Face cache has no nobody/nothing"),
    ],
)
def test_names_of_no_file(name: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        load(name, architecture="small")


def test_colon_inside_a_path(whole: Tensors, base: Tensors, control: Tensors, tmp_path: Path) -> None:
    folder = tmp_path / "12:30"
    folder.mkdir()
    assert_same(load(save(whole, folder / "whole.pth")), whole)
    pair = save(base, folder / "base.pth"), save(control, folder / "control.pth")
    assert_same(load(f"{pair[0]}:{pair[1]}"), whole)


def test_damaged_index(whole: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline", "sharded")
    index = root / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "gone.weight": content["weight_map"][first]}}))
    with pytest.raises(CheckpointError, match=r"lists 1 tensors that its files do not hold, first gone\.weight"):
        load(root)
    (root / "unet" / content["weight_map"][first]).unlink()
    with pytest.raises(CheckpointError, match=r"-of-2\.safetensors does not exist"):
        load(root)
    for text in ("{", "{}", '{"weight_map": []}', "[" * 100_000, '{"weight_map": {"a": "../b.safetensors"}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"index\.json (is not valid JSON|has no weight_map).*fetch"):
            load(root)


def test_fingerprint_needs_all_files(whole: Tensors, tmp_path: Path) -> None:
    root = pipeline(whole, tmp_path / "pipeline", "sharded")
    checkpoint = find_checkpoint(root, architecture="small")
    checkpoint.fingerprint()
    shard = next((root / "unet").glob("*-1-of-2.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"-1-of-2\.safetensors does not exist"):
        checkpoint.fingerprint()
    shard.symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"is a link to .*gone, which does not exist"):
        checkpoint.fingerprint()
    (tmp_path / "lora.safetensors").symlink_to(tmp_path / "gone")
    checkpoint = find_checkpoint(SMALL_MODEL, loras=[(tmp_path / "lora.safetensors", 1)])
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is a link to .*gone, which does not exist"):
        checkpoint.fingerprint()


def test_a_program_is_not_loaded(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match=r"program\.pt is a TorchScript program, which could run code: give"):
        find_checkpoint(tmp_path / "program.pt", architecture="small").check()


def test_misplaced_files_are_named(whole: Tensors, base: Tensors, tmp_path: Path) -> None:
    vae = save(bare(whole, "first_stage_model."), tmp_path / "vae.safetensors")
    half = {name: tensor for name, tensor in bare(whole, "first_stage_model.").items() if name.startswith("encoder.")}
    lora = save({"lora_unet_x.lora_up.weight": torch.ones(1), "b": torch.ones(1)}, tmp_path / "lora.safetensors")
    word = save({"emb_params": torch.ones(2, 96)}, tmp_path / "word.safetensors")
    nested = tmp_path / "nested.pt"
    torch.save({"state_dict": base}, nested)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vae": save(half, tmp_path / "half.safetensors")}, r"half\.safetensors lacks .*give a complete VAE"),
        ({"vae": lora}, "is a LoRA: give it as loras="),
        ({"vae": word}, "is a textual-inversion embedding: give it as embeddings="),
        ({"loras": [(vae, 1)]}, "is a VAE and no LoRA: give it as vae="),
        ({"loras": [(word, 1)]}, "is a textual-inversion embedding and no LoRA: give it as embeddings="),
        ({"loras": [(SMALL_MODEL, 1)]}, "is a checkpoint and no LoRA: give it as the checkpoint"),
        ({"embeddings": [vae]}, "is a VAE: give it as vae="),
        ({"embeddings": [lora]}, "is a LoRA: give it as loras="),
        ({"embeddings": [SMALL_MODEL]}, "is a checkpoint: give it as the checkpoint"),
        ({"embeddings": [nested]}, "is a checkpoint: give it as the checkpoint"),
    ]
    for options, sentence in cases:
        with pytest.raises(CheckpointError, match=sentence):
            load(SMALL_MODEL, architecture="small", **options)


def test_tokenizer_of_the_pipeline_folder(whole: Tensors, tmp_path: Path) -> None:
    shutil.copytree(SMALL_TOKENIZER, tmp_path / "pipeline" / "tokenizer")
    pipeline(whole, tmp_path / "pipeline")
    tokens = Checkpoint(str(tmp_path / "pipeline"), "small", "given").load_tokenizer()(["a bird"])
    assert torch.equal(tokens, Checkpoint(str(SMALL_MODEL), "small", "given").load_tokenizer()(["a bird"]))
