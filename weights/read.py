"""Tensors from a file, by its content: safetensors or PyTorch's formats, whatever the file is called."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ldm.weights import CheckpointError
from weights.kinds import FOREIGN, advice
from weights.pickles import check_depth

ZIP = b"PK\x03\x04"  # PyTorch's format since 1.6
PICKLE = b"\x80\x02"  # PyTorch's format before
# First bytes of files that are often saved under the name of a checkpoint -> what they are and what to do.
OTHERS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: fetch the file with `git lfs pull`",
    b"<": "a web page, not a checkpoint: fetch the file itself, from a link that needs no login",
    b"GGUF": "a GGUF file: give a .safetensors file",
    b"\x89HDF": "a Keras file: give a .safetensors file",
    b"Rar!": "an archive: give a file that is in it",
    b"7z\xbc\xaf": "an archive: give a file that is in it",
    b"\x1f\x8b": "an archive: give a file that is in it",
}
EMBEDDING = "string_to_param"  # the key of an embedding's tensors in a PyTorch file
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
PARALLEL = "module."  # before each name, by DataParallel
PACKED = re.compile(r"torch\.(u?int[1-7]|float4\w*|bits\w*)")  # types that PyTorch cannot convert to float32
HEADER = 100_000_000  # bytes; the largest header of a safetensors file


def read_tensors(path: Path, what: str = "checkpoint") -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, without copying where the format allows. what: the file is, for messages.

    Raises CheckpointError, also for tensors that are not dense, such as sparse or quantized ones.
    """
    content = read_content(path, what)
    if isinstance(content, dict) and EMBEDDING in content:
        raise CheckpointError(f"{what} {path} is {FOREIGN[EMBEDDING]}: {advice(FOREIGN[EMBEDDING])}")
    tensors = _unwrapped(content)
    if isinstance(tensors, dict):  # counters such as global_step may be next to the tensors
        tensors = {name: one for name, one in tensors.items() if not isinstance(one, (int, float, str, type(None)))}
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_entry, tensors.items())):
        raise CheckpointError(
            f"{what} {path} holds a {type(content).__name__} that does not map names to tensors: "
            "give a checkpoint of tensors"
        )
    for name, tensor in tensors.items():
        check_dense(name, tensor, f"{what} {path}")
    return tensors


def check_dense(name: str, tensor: Tensor, source: str) -> None:
    """Raise CheckpointError if the tensor has no values of its own, or not in the usual layout."""
    kinds = {
        "nested": tensor.is_nested,
        "quantized": tensor.is_quantized,
        "meta": tensor.is_meta,
        "packed": PACKED.fullmatch(str(tensor.dtype)) is not None,
        str(tensor.layout).removeprefix("torch."): tensor.layout != torch.strided,
    }
    if found := [kind for kind, is_it in kinds.items() if is_it]:
        raise CheckpointError(
            f"{source}: {name} is a {found[0]} tensor of {tensor.dtype}, expected dense floating-point "
            "weights: save it as dense tensors"
        )


def check_exists(path: Path, what: str) -> None:
    """Raise CheckpointError if the path is no file, or a link to a file that does not exist."""
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{what} {path} is a link to {path.readlink()}, which does not exist: fetch it again")
    if path.is_dir():
        raise CheckpointError(f"{what} {path} is a folder: give a file")
    if not path.exists():
        raise CheckpointError(f"{what} {path} does not exist: give the path of a .pth or .safetensors file")
    if not path.is_file():
        raise CheckpointError(f"{what} {path} is no regular file: give a .pth or .safetensors file")


def read_content(path: Path, what: str) -> Any:
    """Read whatever the file contains, tensors only. Raises CheckpointError in one sentence if that fails."""
    check_exists(path, what)
    try:
        return _read(path, what)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{what} {path} holds Python objects other than tensors, which are not loaded because they could run "
            "code, or it is not a PyTorch file: give a .safetensors file, or a .pth with tensors only"
        ) from error
    except Exception as error:  # damaged files make PyTorch raise almost any exception
        raise CheckpointError(
            f"{what} {path} cannot be read ({path.stat().st_size} bytes; {type(error).__name__}): it is truncated "
            "or damaged; fetch it again"
        ) from error


def _read(path: Path, what: str) -> Any:
    with path.open("rb") as file:
        head = file.read(512)
    names = _names(path) if head.startswith(ZIP) and zipfile.is_zipfile(path) else None
    if names is not None and not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{what} {path} is an archive: give a file that is in it")
    if names is not None and any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"{what} {path} is a TorchScript program, which could run code: give the weights as .safetensors, or "
            "as .pth with tensors only"
        )
    if head.startswith((ZIP, PICKLE)):
        check_depth(path, what)
        with path.open("rb") as file:
            # By its descriptor, because PyTorch takes any path that ends in .safetensors for such a file.
            # mmap reads tensors on first use, so a 5.7 GB file is not copied into memory twice.
            return torch.load(
                f"/proc/self/fd/{file.fileno()}", map_location="cpu", weights_only=True, mmap=head.startswith(ZIP)
            )
    if 0 < int.from_bytes(head[:8], "little") <= HEADER and head[8:9] == b"{":
        return safetensors.torch.load_file(path)
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    for magic, kind in OTHERS.items():
        if start.startswith(magic):
            raise CheckpointError(f"{what} {path} is {kind}")
    if not head:
        raise CheckpointError(f"{what} {path} is empty (0 bytes): fetch it again")
    raise CheckpointError(
        f"{what} {path} cannot be read ({path.stat().st_size} bytes, which begin with {head[:8]!r}): "
        "give a .safetensors file or a PyTorch file"
    )


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _unwrapped(content: Any) -> Any:
    """Return the tensors without the levels and prefixes that training scripts put around them."""
    for _ in WRAPPERS:  # each at most once: a dict may contain itself
        if not isinstance(content, dict):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    names = list(content) if isinstance(content, dict) else []
    if names and all(isinstance(name, str) and name.startswith(PARALLEL) for name in names):
        return {name.removeprefix(PARALLEL): one for name, one in content.items()}
    return content


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor)
