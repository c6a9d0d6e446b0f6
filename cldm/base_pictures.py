"""Generates base pictures (the float32 reference) and caches them by a digest of everything that they depend on."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from cldm.canny import Picture
from cldm.checkpoint import Checkpoint
from cldm.progress import Progress
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.reference import reference_pictures
from cldm.request import Request
from cldm.text_inputs import text_inputs
from files import check_writable, digest, write_whole
from ldm.tokenizer import Tokenizer
from runtime.sources import ROOT, fingerprint

VARIABLE = "CANNY2IMAGE_CACHE"
FOLDER = "base_pictures"  # in the folder of caches
SOURCES = ("cldm/reference.py", "cldm/checkpoint.py")  # these files and all that they import determine a picture


def base_pictures(
    checkpoint: Checkpoint,
    requests: Mapping[str, Request],
    device: torch.device,
    syntax: PromptSyntax = PLAIN,
    cache: Path | None = None,
) -> dict[str, Picture]:
    """Return the first picture of each request by name, uint8 RGB [h, w, 3].

    Generates the pictures that are not in the folder `cache`, and saves them there as PNG files.
    cache: by default base_pictures in $CANNY2IMAGE_CACHE if that is set, else in .cache in the project.
    Raises ValueError if a cached picture is damaged, CheckpointError or TokenizerError for unusable weights, and
    OSError, before it loads them, if pictures are missing and the cache cannot be written.
    """
    tokenizer = checkpoint.checked_tokenizer()
    common = _common(checkpoint, device)
    folder = cache or Path(os.environ.get(VARIABLE) or ROOT / ".cache") / FOLDER
    files = {name: folder / f"{_key(common, request, tokenizer, syntax)}.png" for name, request in requests.items()}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        _check_cache(folder)
        model = checkpoint.load_model(device)
        for name in Progress(missing, desc="base pictures", unit="picture"):
            picture = reference_pictures(model, tokenizer, requests[name], syntax)[0]
            write_whole(files[name], cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
    return {name: _read(file) for name, file in files.items()}


def _check_cache(folder: Path) -> None:
    try:
        check_writable(folder)
    except OSError as error:
        raise OSError(f"{error}, with --cache FOLDER or {VARIABLE}") from error


def _common(checkpoint: Checkpoint, device: torch.device) -> str:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return "\n".join([checkpoint.fingerprint(), where, torch.__version__, cv2.__version__, fingerprint(SOURCES)])


def _key(common: str, request: Request, tokenizer: Tokenizer, syntax: PromptSyntax) -> str:
    arguments = asdict(request)
    pictures = [arguments.pop(name) for name in ("input_image", "edges")]
    arguments["syntax"] = str(syntax)
    arguments |= {name: rows.tolist() for name, rows in text_inputs(tokenizer, request.prompts, syntax).items()}
    said = ["None" if one is None else f"{one.shape} {digest(one.tobytes())}" for one in pictures]
    return digest("\n".join([common, json.dumps(arguments, sort_keys=True), *said]))


def _read(file: Path) -> Picture:
    """Return RGB from a PNG that `base_pictures` wrote; scoring.pictures reads the files of users."""
    picture = cv2.imread(str(file))
    if picture is None:
        raise ValueError(f"base picture {file} is damaged: remove it and run again")
    return np.asarray(picture[:, :, ::-1], dtype=np.uint8)
