"""One rule for picture files, the contest's: alpha dropped, 8 bits, three channels, EXIF's orientation applied."""

import os
import re
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import compute_score
import plans.requests
from cldm.canny import hwc3
from scoring.pictures import find_captions, find_pictures, read

ROOT = Path(compute_score.__file__).parent
RGB = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ALPHA = np.where(np.arange(96) < 48, 0, 200).astype(np.uint8)[None].repeat(64, axis=0)  # hides the left half
DROPPED = "is dropped, as in the contest's script: flatten the file to keep its look"


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_of_a_file_is_dropped_with_a_log_line(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
    rgba.save(tmp_path / f"bird.{suffix}", lossless=True, exact=True)  # PNG ignores both; exact keeps hidden colours
    assert np.array_equal(read(tmp_path / f"bird.{suffix}"), RGB[:, :, ::-1])
    assert caplog.messages == [f"pictures: alpha of {tmp_path}/bird.{suffix} {DROPPED}"]


def test_alpha_of_an_array_is_put_over_white(tmp_path: Path) -> None:
    """The same file differs if its array has four channels: process() sees white where the file is transparent."""
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "bird.png")
    array = cv2.imread(str(tmp_path / "bird.png"), cv2.IMREAD_UNCHANGED)
    assert array is not None
    over_white = hwc3(np.asarray(array, np.uint8))
    assert (over_white[:, :48] == 255).all()
    assert not (read(tmp_path / "bird.png")[:, :48] == 255).all()


def test_grey_with_alpha(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]).save(tmp_path / "bird.png")
    assert np.array_equal(read(tmp_path / "bird.png"), np.dstack([GREY] * 3))
    assert DROPPED in caplog.text


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(tmp_path: Path, transparent: bool, caplog: pytest.LogCaptureFixture) -> None:
    palette = Image.fromarray(RGB).quantize(16)
    if transparent:
        palette.info["transparency"] = 0  # the first colour
    palette.save(tmp_path / "bird.png")
    assert np.array_equal(read(tmp_path / "bird.png"), np.array(palette.convert("RGB"))[:, :, ::-1])
    assert (DROPPED in caplog.text) == transparent


@pytest.mark.parametrize("channels", ["grey", "colour", "alpha"])
def test_the_upper_8_of_16_bits_remain(tmp_path: Path, channels: str) -> None:
    low = np.random.default_rng(1).integers(0, 256, (64, 96, 4), dtype=np.uint16)
    kept = {"grey": GREY, "colour": RGB, "alpha": np.dstack([RGB, ALPHA])}[channels]
    deep = kept.astype(np.uint16) * 256 + (low[:, :, 0] if kept.ndim == 2 else low[:, :, : kept.shape[2]])
    cv2.imwrite(str(tmp_path / "bird.png"), deep)
    assert np.array_equal(read(tmp_path / "bird.png"), hwc3(kept if kept.ndim == 2 else kept[:, :, :3]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.resize(RGB[:4, :6], (96, 64))
    Image.fromarray(smooth).save(tmp_path / "bird.jpg", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / "bird.jpg") as stored:
        upright = np.array(ImageOps.exif_transpose(stored))[:, :, ::-1].astype(int)
    made = read(tmp_path / "bird.jpg")
    assert made.shape == upright.shape == ((64, 96, 3) if orientation < 5 else (96, 64, 3))
    assert np.abs(made - upright).max() < 8, "decoders differ by little, orientations by much"
    assert caplog.messages == []


def test_scoring_and_plans_read_a_folder_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        Image.fromarray(np.dstack([RGB + np.uint8(i), ALPHA])).save(tmp_path / f"bird_{i}.png")
    monkeypatch.setattr(plans.requests, "RESOLUTION", 64)
    for i, fold in enumerate(plans.requests.FOLDS):
        (asked,) = plans.requests.make_requests(fold, 1, tmp_path)
        assert np.array_equal(asked.source, (RGB + np.uint8(i))[:, :, ::-1])
        assert np.array_equal(asked.source, find_pictures(tmp_path)[f"bird_{i}"])


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "bird.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name, why in {
        "bird.png": r"is damaged or no picture \(unknown format\): replace the file, or save it again as PNG",
        "absent.png": r"cannot be read \(No such file or directory\)",
        "pipe.png": r"cannot be read \(it is not a regular file\)",
        "folder.png": r"cannot be read \(it is not a regular file\)",
    }.items():
        with pytest.raises(ValueError, match=rf"^pictures: \S*{name} {why}$"):
            read(tmp_path / name)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("fills", [False, True])
def test_truncated_pictures_are_refused(
    tmp_path: Path, suffix: str, kept: float, fills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of OpenCV fill the missing part of a picture with grey."""
    whole = cv2.imencode(f".{suffix}", RGB)[1].tobytes()
    (tmp_path / f"bird.{suffix}").write_bytes(whole)
    read(tmp_path / f"bird.{suffix}")
    (tmp_path / f"bird.{suffix}").write_bytes(whole[: int(kept * len(whole))])
    if fills:
        monkeypatch.setattr(cv2, "imdecode", lambda content, flags: RGB)
    with pytest.raises(ValueError, match=rf"^pictures: \S*bird.{suffix} is damaged.*: replace the file") as caught:
        find_pictures(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("side", [2**14, 2**30])
def test_a_huge_header_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    content = bytearray(cv2.imencode(".png", RGB)[1].tobytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bird.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"^pictures: \S*bird.png has more than 67108864 pixels: scale it down$"):
        read(tmp_path / "bird.png")


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "ab.jpg", "a.png"),
        ("bird.png", "Bird.jpg"),
        ("\u00e4.png", "a\u0308.jpg"),
        ("STRASSE.png", "straße.png"),
    ],
)
def test_names_that_collide(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        Image.fromarray(RGB).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"would get the same result files; rename one"):
        find_pictures(tmp_path)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / os.fsdecode(b"b\xffrd.png"))
    with pytest.raises(ValueError, match=r"the name 'b\\udcffrd\.png' in .* is not UTF-8: rename the file"):
        find_pictures(tmp_path)


def test_other_files_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Image.fromarray(RGB).save(tmp_path / "bird.png")
    for name in ("._bird.png", ".hidden.jpg", ".DS_Store", "bird.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbfa bird\n")
    assert list(find_pictures(tmp_path)) == ["bird"]
    assert caplog.messages == []
    (tmp_path / "notes.pdf").touch()
    (tmp_path / "folder.png").mkdir()
    assert list(find_pictures(tmp_path)) == ["bird"]
    assert caplog.messages == [f"pictures: ignored 2 other entries of {tmp_path}, such as 'folder.png'"]


def test_captions(tmp_path: Path) -> None:
    (tmp_path / "bird.txt").write_bytes(b"\xef\xbb\xbfa bird\n")
    (tmp_path / "._bird.txt").write_bytes(b"\xff")
    assert find_captions(tmp_path) == {"bird": "a bird"}
    (tmp_path / "bird.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"the caption .*bird\.txt is no UTF-8 text: save it as UTF-8"):
        find_captions(tmp_path)
    (tmp_path / "bird.txt").unlink()
    (tmp_path / "bird.txt").mkdir()
    with pytest.raises(ValueError, match=r"the caption .*bird\.txt cannot be read \(Is a directory\)"):
        find_captions(tmp_path)


def test_no_other_module_reads_pictures_with_opencv() -> None:
    """cldm.base_pictures reads only what it wrote; scripts in examples/ are code of users, with the same rule."""
    skipped = {"tests", "examples"}
    files = [file.relative_to(ROOT) for file in ROOT.rglob("*.py")]
    files = [file for file in files if not file.parts[0].startswith(".") and file.parts[0] not in skipped]
    reads = [file for file in files if "cv2.im" in (ROOT / file).read_text()]
    found = {str(file) for file in reads if re.search(r"cv2\.(imread|imdecode)\(", (ROOT / file).read_text())}
    assert found == {"scoring/pictures.py", "cldm/base_pictures.py"}
