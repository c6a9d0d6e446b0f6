"""Draws a PNG for judging a run by eye: input, edges, base and candidate of every picture, with the scores.

The sheet is a vertical stack of strips of equal width: header, column titles, one strip per picture, footer.
"""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from files import write_whole
from scoring.distance import read_picture
from scoring.report import PictureScore, Report

COLUMNS = ("Input", "Canny", "Base", "Candidate")
CELL = (384, 256)  # pixels at scale 1: the size of the contest's pictures
GAP = 16
MARGIN = 48
PAPER, FRAME, LINE = "#fbfaf8", "#f1efeb", "#dedbd5"
INK, MUTED = "#23211e", "#8a857c"


def contact_sheet(report: Report, path: Path, scale: float = 1.0) -> None:
    """Write a report as one PNG. scale: 1 shows pictures of 384x256 pixels at full size, 0.5 at half size.

    Raise ValueError for a scale outside 0.5 to 2, OSError if a picture cannot be read or `path` cannot be written.
    """
    if not 0.5 <= scale <= 2:
        raise ValueError(f"scale: got {scale}, expected 0.5 to 2")
    cell = (round(CELL[0] * scale), round(CELL[1] * scale))
    width = len(COLUMNS) * (cell[0] + GAP) - GAP
    rows = [_row(score, report.metric_name, cell, width) for score in report.scores]
    sheet = _stack([_header(report, cell, width), _titles(cell, width), *rows, _footer(report, width)], width)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    write_whole(path, file.getvalue())


def _header(report: Report, cell: tuple[int, int], width: int) -> Image.Image:
    strip, draw = _strip(width, 142)
    count = len(report.scores)
    draw.text((0, 0), f"{count} picture{'s' if count > 1 else ''}, base and candidate", INK, _font(30))
    settings = " · ".join([report.device, *(f"{key} {value}" for key, value in report.settings.items())])
    draw.text((0, 42), _shorten(settings, _font(15), width), MUTED, _font(15))
    means = _numbers(report.metric_name, report.mean_pd, report.mean_ssim, report.mean_psnr, report.mean_latency_ms)
    for place, (label, value) in enumerate(means):
        x = place * (cell[0] + GAP)
        draw.text((x, 82), f"mean {label}", MUTED, _font(13))
        draw.text((x, 99), value, INK, _font(26))
    if report.leaderboard_score is not None:
        points = f"{report.leaderboard_score:.1f}"
        draw.text((width, 0), points, INK, _font(30), anchor="ra")
        draw.text((width - _font(30).getlength(points) - 10, 12), "leaderboard score", MUTED, _font(15), anchor="ra")
    return strip


def _titles(cell: tuple[int, int], width: int) -> Image.Image:
    strip, draw = _strip(width, 40)
    draw.line((0, 0, width, 0), LINE)
    for place, title in enumerate(COLUMNS):
        draw.text((place * (cell[0] + GAP), 16), title, MUTED, _font(14))
    return strip


def _row(score: PictureScore, metric_name: str, cell: tuple[int, int], width: int) -> Image.Image:
    strip, draw = _strip(width, cell[1] + 58)
    for place, path in enumerate((score.input_path, score.canny_path, score.base_path, score.candidate_path)):
        picture = ImageOps.contain(Image.fromarray(read_picture(path)), cell, Image.Resampling.LANCZOS)
        left = place * (cell[0] + GAP)
        draw.rectangle((left, 0, left + cell[0] - 1, cell[1] - 1), FRAME)
        strip.paste(picture, (left + (cell[0] - picture.width) // 2, (cell[1] - picture.height) // 2))
    font = _font(15 if cell[0] >= 0.75 * CELL[0] else 12)
    y = cell[1] + 10
    draw.text((0, y), _shorten(score.name, font, 2 * cell[0] + GAP), INK, font)
    numbers = _numbers(metric_name, score.pd, score.ssim, score.psnr, score.latency_ms)
    for place, (label, value) in enumerate(numbers):  # two below the base, two below the candidate
        label_length = font.getlength(label) + 7
        left = (2 + place // 2) * (cell[0] + GAP)
        x = float(left)
        if place % 2:
            x += cell[0] - label_length - font.getlength(value)
        draw.text((x, y), label, MUTED, font)
        draw.text((x + label_length, y), value, INK, font)
    return strip


def _footer(report: Report, width: int) -> Image.Image:
    strip, draw = _strip(width, 30)
    draw.line((0, 0, width, 0), LINE)
    draw.text((0, 14), _shorten("  ".join(report.notes), _font(13), width), MUTED, _font(13))
    return strip


def _numbers(metric_name: str, pd: float, ssim: float, psnr: float, ms: float) -> list[tuple[str, str]]:
    return [(metric_name, f"{pd:.3f}"), ("SSIM", f"{ssim:.4f}"), ("PSNR", f"{psnr:.2f} dB"), ("time", f"{ms:.1f} ms")]


def _strip(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (width, height), PAPER)
    return strip, ImageDraw.Draw(strip)


def _stack(strips: Iterable[Image.Image], width: int) -> Image.Image:
    strips = list(strips)
    sheet, _ = _strip(width + 2 * MARGIN, sum(strip.height for strip in strips) + 2 * MARGIN)
    y = MARGIN
    for strip in strips:
        sheet.paste(strip, (MARGIN, y))
        y += strip.height
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
