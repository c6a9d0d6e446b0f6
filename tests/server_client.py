"""What tests send to a server, and what they compare its answers with."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import requests
import safetensors.torch
import torch
from PIL import Image

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.request import Request
from ldm.config import load_architecture
from scoring.pictures import DRAWN_BIRDS
from weights.lora_names import weight_shapes

BIRD = DRAWN_BIRDS / "bird_1.png"
BASE64 = base64.b64encode(BIRD.read_bytes()).decode()
SMALL_PICTURE: dict[str, Any] = {"input_image": BASE64, "image_resolution": 64}


def write_lora(path: Path, size: float) -> None:
    """Write a LoRA that changes one layer of the text encoder."""
    layer = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1"
    rows, columns = weight_shapes(load_architecture("small"))[f"{layer}.weight"]
    flat = "lora_te_text_model_" + layer.partition("text_model.")[2].replace(".", "_")
    generator = torch.Generator().manual_seed(0)
    down = size * torch.randn(2, columns, generator=generator)
    safetensors.torch.save_file(
        {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": torch.randn(rows, 2, generator=generator)}, path
    )


def post(server: str, **values: Any) -> requests.Response:
    return requests.post(f"{server}/v1/pictures", json=SMALL_PICTURE | values, timeout=60)


def decoded(text: str) -> Picture:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def same(one: Picture, other: Picture) -> bool:
    """Whether no value differs by more than a grey level: batches round differently."""
    return int(np.abs(one.astype(int) - other).max()) <= 1


def drawn(trained: hackathon, **values: Any) -> Picture:
    """Return the picture that a server with the weights and plan of `trained` must give."""
    picture = np.asarray(Image.open(BIRD).convert("RGB"))
    return trained.draw(Request.contest(picture, image_resolution=64, **values))[0]
