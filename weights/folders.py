"""Folders of the diffusers library: which files hold the weights of a part, in the local cache too."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.config import ScheduleConfig
from ldm.weights import CheckpointError
from reading import read_object, shown
from weights.read import check_exists, read_tensors

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = ("", "fp16", "bf16", "non_ema")  # full precision before halves; weights that were not averaged last
BASE_PARTS = ("unet", "vae", "text_encoder")
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of one part: one file, or an index and its shards. Raises CheckpointError if there are none."""
    for variant in VARIANTS:
        for kind in ("safetensors", "bin"):
            for stem in STEMS:
                for name in _names(stem, variant, kind):
                    if (folder / name).exists() or (folder / name).is_symlink():
                        file = folder / name
                        return [file, *_shards(file)] if name.endswith(".json") else [file]
    held = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "no files"
    raise CheckpointError(
        f"no weights in {folder} (it holds {held}): expected diffusion_pytorch_model or model as "
        ".safetensors or .bin, in one file or with an index.json, with or without .fp16 or .non_ema"
    )


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of one part. Raises CheckpointError for a missing or damaged file, index or shard."""
    first, *shards = weight_files(folder)
    if not shards:
        return read_tensors(first)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= read_tensors(shard)
    if missing := [name for name in _index(first) if name not in tensors]:
        raise CheckpointError(
            f"{first} lists {len(missing)} tensors that its files do not hold, first {missing[0]}: fetch them again"
        )
    return tensors


def existing(name: str) -> str:
    """Return the absolute path if the name is one that exists, so that it stays the same file in another folder."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) else name


def resolve(name: str, what: str) -> Path:
    """Return the path of a file, a folder, the snapshot of a folder of the Hugging Face cache, or of a hub id there.

    what: the file is, for messages. Nothing is fetched. Raises CheckpointError for an address, and for what does not
    exist here.
    """
    if "://" in name:
        raise CheckpointError(
            f"{what} {name!r} is an address, and nothing is fetched: download the file and give its path"
        )
    if not name.strip():
        raise CheckpointError(f"the path of the {what} is empty: give the path of a file")
    try:
        path = Path(name).expanduser()
        if path.exists() or path.is_symlink():
            return _snapshot(path) if (path / "snapshots").is_dir() else path
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, no such user, a zero byte
        raise CheckpointError(f"{what} {name[:80]!r} is no usable path ({error}): give the path of a file") from error
    is_hub_id = HUB_ID.fullmatch(name) and not name.endswith(SUFFIXES)
    if is_hub_id and (cached := _cached(name)):
        return cached
    hint = f", and the Hugging Face cache has no {name}" if is_hub_id else ""
    raise CheckpointError(
        f"{what} {name} does not exist{hint}: give the path of a .safetensors or .pth file, or a diffusers folder"
    )


def resolve_file(name: str, names: Sequence[str], what: str) -> Path:
    """Resolve the name of a file, or of a folder with a file called one of `names`; `what` it is, for the message."""
    path = resolve(name, what)
    found = [path / file for file in names if (path / file).exists()] if path.is_dir() else [path]
    if not found:
        raise CheckpointError(f"{what} {path} is a folder without one: expected one of {', '.join(names)} in it")
    check_exists(found[0], what)
    return found[0]


def check_scheduler(folder: Path, expected: ScheduleConfig) -> None:
    """Raise CheckpointError if a pipeline's scheduler is of another kind than the architecture's noise schedule."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return
    config = read_json(file)
    wanted = {
        "prediction_type": "epsilon",
        "beta_schedule": "scaled_linear",
        "beta_start": expected.beta_start,
        "beta_end": expected.beta_end,
        "num_train_timesteps": expected.steps,
        "rescale_betas_zero_snr": False,
        "trained_betas": None,
    }
    for name, value in wanted.items():
        got = config.get(name, value)
        if type(got) is not type(value) and not (_is_number(got) and _is_number(value)) and value is not None:
            raise CheckpointError(f"{file} is damaged: {name} is {shown(got)}, expected {value!r}: fetch it again")
        if got != value:
            raise CheckpointError(
                f"{file} has {name} {shown(got)}, expected {value!r}: the model was trained for another noise "
                "schedule and would generate garbage; give weights of Stable Diffusion 1.5"
            )


def check_scaling(folder: Path, scale_factor: float) -> None:
    """Raise CheckpointError if a VAE's config has another scaling factor, as that of Stable Diffusion XL has."""
    file = folder / "config.json"
    got = read_json(file).get("scaling_factor", scale_factor) if file.is_file() else scale_factor
    if not _is_number(got):
        raise CheckpointError(
            f"{file} is damaged: scaling_factor is {shown(got)}, expected {scale_factor}: fetch it again"
        )
    if got != scale_factor:
        raise CheckpointError(
            f"{file} has scaling_factor {got!r}, expected {scale_factor}: this VAE belongs to another model, such as "
            "Stable Diffusion XL; give one of Stable Diffusion 1.5"
        )


def _names(stem: str, variant: str, kind: str) -> list[str]:
    if not variant:
        return [f"{stem}.{kind}", f"{stem}.{kind}.index.json"]
    return [
        f"{stem}.{variant}.{kind}",
        f"{stem}.{variant}.{kind}.index.json",
        f"{stem}.{kind}.index.{variant}.json",
    ]


def _shards(index: Path) -> list[Path]:
    return [index.parent / name for name in sorted(set(_index(index).values()))]


def _index(file: Path) -> dict[str, str]:
    names = read_json(file).get("weight_map")
    if not isinstance(names, dict) or not names or not all(map(_is_name, names.values())):
        raise CheckpointError(f"{file} has no weight_map from tensors to files: fetch the folder again")
    return names


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError if the file holds anything else."""
    try:
        return read_object(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): fetch it again") from error
    except ValueError as error:
        raise CheckpointError(f"{file} {error}: fetch it again") from error


def _is_name(file: object) -> bool:
    """Return whether this can be a file in the index's own folder."""
    return isinstance(file, str) and file == Path(file).name and "\0" not in file and file.isprintable()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _snapshot(root: Path) -> Path:
    """Return the snapshot that `main` refers to in a folder of the Hugging Face cache, else the only one."""
    snapshots = sorted(folder for folder in (root / "snapshots").iterdir() if folder.is_dir())
    main = root / "refs" / "main"
    current = main.read_text(errors="replace").strip() if main.is_file() else ""
    for folder in snapshots:
        if folder.name == current:
            return folder
    if len(snapshots) == 1:
        return snapshots[0]
    raise CheckpointError(f"{root} holds {len(snapshots)} snapshots, none of them in refs/main: give the path of one")


def _cached(name: str) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE  # slow to import

    root = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return _snapshot(root) if (root / "snapshots").is_dir() else None
