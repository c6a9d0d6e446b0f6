"""A studio with small pictures and short plans, and files that it offers, for tests of the page."""

import shutil
from pathlib import Path

import safetensors.torch
from PIL import Image

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from scoring.pictures import DRAWN_BIRDS
from serving.shelf import Shelf
from serving.studio import Studio
from tests.test_hackathon_loras import write_lora

PLAN = "19,4"


def write_offers(folder: Path) -> tuple[Path, Path]:
    """Write the weights "birds/other" and the LoRAs "attention" and "all". Return the folders of weights and LoRAs."""
    weights, loras = folder / "weights", folder / "loras"
    (weights / "birds").mkdir(parents=True)
    loras.mkdir()
    tensors = safetensors.torch.load_file(SMALL_MODEL)
    changed = {name: tensor * 1.02 if tensor.dim() == 4 else tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(changed, weights / "birds" / "other.safetensors")
    (weights / "broken.safetensors").write_bytes(b"no weights")
    write_lora(loras / "attention.safetensors", 1, "attn")
    write_lora(loras / "all.safetensors", 4, "")
    return weights, loras


def make_studio(folder: Path) -> Studio:
    weights, loras = write_offers(folder)
    runtime = hackathon(str(SMALL_MODEL), plan=PLAN, device="cpu")
    runtime.initialize()
    return Studio(runtime, PLAN, Shelf(weights, "weights"), Shelf(loras, "LoRA"))


def bird(folder: Path, number: int = 1) -> str:
    """Return the path of a copy of a shipped picture."""
    return str(shutil.copy(DRAWN_BIRDS / f"bird_{number}.png", folder))


def edge_map(folder: Path) -> str:
    file = folder / "edges.png"
    image = Image.new("L", (64, 64))
    image.paste(255, (20, 20, 44, 22))
    image.save(file)
    return str(file)
