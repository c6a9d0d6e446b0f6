"""Formats the results of a scoring run as text and as JSON: one row per picture, and the means."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from files import write_whole
from scoring.leaderboard import leaderboard_score


@dataclass(frozen=True)
class PictureScore:
    """One picture: how the candidate compares with the base, and the files for its row in the contact sheet."""

    name: str
    pd: float
    ssim: float
    psnr: float  # dB, math.inf for identical pictures
    latency_ms: float  # of the candidate
    input_path: Path
    canny_path: Path
    base_path: Path
    candidate_path: Path


@dataclass(frozen=True)
class Report:
    """A run over one or more pictures, in the order of generation. Raise ValueError if there are none or one is NaN."""

    scores: Sequence[PictureScore]
    metric_name: str  # PD, or PD* without the real weights; see Inception.metric_name
    device: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("scores: got none, expected at least one picture")
        for score in self.scores:
            for name in ("pd", "ssim", "psnr", "latency_ms"):
                value = getattr(score, name)
                if not math.isfinite(value) and not (name == "psnr" and value == math.inf):
                    raise ValueError(f"scores: {score.name}: {name} is {value}, expected a finite number")

    @property
    def mean_pd(self) -> float:
        return fmean(score.pd for score in self.scores)

    @property
    def mean_ssim(self) -> float:
        return fmean(score.ssim for score in self.scores)

    @property
    def mean_psnr(self) -> float:
        """The mean in dB; math.inf if one of the pictures is identical to its base."""
        return fmean(score.psnr for score in self.scores)

    @property
    def mean_latency_ms(self) -> float:
        """The mean without the first call, which includes warm-up, unless it is the only call."""
        return fmean(score.latency_ms for score in self.scores[1:] or self.scores)

    @property
    def leaderboard_score(self) -> float | None:
        """The score of the mean latency and the mean PD; None if the distance is PD*."""
        return leaderboard_score(self.mean_latency_ms, self.mean_pd) if self.metric_name == "PD" else None

    @property
    def notes(self) -> list[str]:
        """Remarks needed to interpret the numbers."""
        notes = ["The mean latency excludes the first call."] if len(self.scores) > 1 else []
        if self.leaderboard_score is not None:
            notes.append("The leaderboard score uses this machine's latency; the contest used an A10.")
        else:
            notes.append(f"{self.metric_name} is not the contest's PD: it was computed without the real weights.")
        return notes

    def text(self) -> str:
        """Return an aligned table with the means, the leaderboard score if there is one, and the notes."""
        width = max(len("picture"), *(len(score.name) for score in self.scores))
        rows = [(s.name, s.pd, s.ssim, s.psnr, s.latency_ms) for s in self.scores]
        rows.append(("mean", self.mean_pd, self.mean_ssim, self.mean_psnr, self.mean_latency_ms))
        lines = [f"{'picture':<{width}}  {self.metric_name:>8}  {'SSIM':>7}  {'PSNR dB':>8}  {'ms':>9}"]
        lines += [f"{name:<{width}}  {pd:8.4f}  {ssim:7.4f}  {db:8.2f}  {ms:9.3f}" for name, pd, ssim, db, ms in rows]
        lines.insert(-1, "-" * len(lines[0]))
        if self.leaderboard_score is not None:
            lines.append(f"leaderboard score {self.leaderboard_score:.4f}")
        return "\n".join([*lines, "", *self.notes])

    def as_json(self) -> dict[str, Any]:
        """Return data for strict JSON. Infinity and NaN become "inf" and "nan", which float() can read back."""
        keys = (self.metric_name, "ssim", "psnr_db", "latency_ms")
        data: dict[str, Any] = {
            "metric": self.metric_name,
            "device": self.device,
            "settings": dict(self.settings),
            "notes": self.notes,
            "means": dict(zip(keys, (self.mean_pd, self.mean_ssim, self.mean_psnr, self.mean_latency_ms), strict=True)),
        }
        if self.leaderboard_score is not None:
            data["leaderboard_score"] = self.leaderboard_score
        data["pictures"] = [
            {"name": s.name, **dict(zip(keys, (s.pd, s.ssim, s.psnr, s.latency_ms), strict=True))} for s in self.scores
        ]
        return {key: _strict(value) for key, value in data.items()}

    def save_json(self, path: Path) -> None:
        """Write the JSON file. Raise OSError if `path` cannot be written."""
        write_whole(path, (json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n").encode())


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
