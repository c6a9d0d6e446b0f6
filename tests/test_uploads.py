"""Pictures that users send: what is read, and the sentences for what is not."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.uploads import FORMATS, MOST_BYTES, MOST_PIXELS, decode, decode_base64
from tests.sentences import assert_one_sentence

ROWS, COLUMNS = np.mgrid[:24, :40]
PICTURE = np.stack([ROWS * 10, COLUMNS * 6, ROWS + COLUMNS], axis=-1).astype(np.uint8)


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(PICTURE)).save(file, form, **options)
    return file.getvalue()


def png_header(height: int, width: int) -> bytes:
    """Return a PNG file that says its size, and has a few bytes of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def refused(content: bytes) -> str:
    with pytest.raises(ValueError, match="picture: ") as caught:
        decode(content, "picture")
    assert_one_sentence(caught.value, "picture")
    return str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
def test_each_format(form: str) -> None:
    picture = decode(encoded(form, lossless=True), "picture")
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - PICTURE).mean() < (10 if form == "JPEG" else 1e-9)
    assert picture.flags.writeable


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA"])
def test_each_kind_of_pixels_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    picture = decode(encoded("JPEG" if mode == "CMYK" else "PNG", image), "picture")
    assert picture.shape == PICTURE.shape
    assert picture.std() > 5


def test_sixteen_bits_keep_their_look() -> None:
    grey = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    picture = decode(encoded("PNG", Image.fromarray(grey)), "picture")
    assert np.abs(picture[:, :, 0].astype(int) - grey // 256).max() <= 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_files(form: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(form, Image.fromarray(noise))
    assert "damaged or no picture" in refused(content[: int(len(content) * part)])


@pytest.mark.parametrize("content", [b"", b"text", bytes(1000), b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_files_that_are_no_pictures(content: bytes) -> None:
    assert f"got {len(content)} bytes" in refused(content)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "ICO", "PPM", "PDF"])
def test_other_formats(form: str) -> None:
    assert "expected a picture in one of the formats PNG, JPEG, WEBP, BMP" in refused(encoded(form))


@pytest.mark.parametrize(("height", "width"), [(30000, 30000), (4097, 4096), (1, 2**25), (2**31 - 1, 2**31 - 1)])
def test_sizes_are_checked_before_pixels_are_decoded(height: int, width: int) -> None:
    assert f"expected at most {MOST_PIXELS}: make it smaller" in refused(png_header(height, width))


def test_a_bomb_within_the_size_is_only_as_large_as_it_says() -> None:
    assert "damaged" in refused(png_header(4096, 4096))


def test_the_size_of_a_file() -> None:
    assert "make it smaller" in refused(bytes(MOST_BYTES + 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_the_picture(form: str, orientation: int) -> None:
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(form, Image.fromarray(corner), exif=exif), "picture")
    assert picture.shape == ((48, 32, 3) if orientation > 4 else (32, 48, 3))
    bright = [picture[y, x].mean() > 128 for y in (2, -3) for x in (2, -3)]
    where = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert bright == [i == where for i in range(4)]


def test_alpha_is_put_over_white() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    picture = decode(encoded("PNG", Image.fromarray(rgba)), "picture")
    assert (picture[:, :4] == 255).all()
    assert (picture[:, 4:] == 0).all()


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.fromarray(np.zeros((8, 8), np.uint8), "L").convert("P")
    assert (decode(encoded("PNG", image, transparency=0), "picture") == 255).all()


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("wide", [10**9, 76])
def test_base64(head: str, wide: int) -> None:
    text = base64.b64encode(encoded("PNG")).decode()
    lines = "\n".join(text[i : i + wide] for i in range(0, len(text), wide))
    assert (decode_base64(head + lines, "picture") == PICTURE).all()


@pytest.mark.parametrize("text", ["ä", "%%%%", "abc", "data:image/png;base64,!", "a,b", "=", "\ud800"])
def test_text_that_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match="no base64, expected a picture in base64") as caught:
        decode_base64(text, "input_image")
    assert_one_sentence(caught.value, "input_image")


@pytest.mark.parametrize("text", ["", "data:image/png;base64,", "aGVsbG8="])
def test_base64_of_no_picture(text: str) -> None:
    with pytest.raises(ValueError, match="damaged or no picture"):
        decode_base64(text, "picture")


def test_long_base64_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="characters, expected at most"):
        decode_base64("a" * (2 * MOST_BYTES + 1), "picture")
