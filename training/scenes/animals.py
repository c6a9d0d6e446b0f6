"""Creates drawings of fish, cats and butterflies."""

import numpy as np

from training.scenes.curves import Points, ellipse, limb, points, smooth, turned
from training.scenes.drawing import CREAM, INK, Drawing, Part, eye


def fish(rng: np.random.Generator) -> Drawing:
    """Return a fish that swims to the right."""
    deep, fork, hook = rng.uniform(0.2, 0.36), rng.uniform(0.16, 0.28), rng.uniform(0.04, 0.12)
    along = np.linspace(0, np.pi, 15)
    x = 0.52 * np.cos(along)
    half = deep * np.sin(along) ** 0.85 * (1 + 0.25 * np.cos(along))
    body = np.concatenate([np.stack([x, -half], 1), np.stack([x, half], 1)[-2:0:-1]])
    tail = smooth((-0.4, 0.0), (-0.62, -fork), (-0.82, -fork - 0.05), (-0.7, 0.0), (-0.82, fork + 0.05), (-0.62, fork))
    back = smooth((0.2, -0.8 * deep), (-0.02, -deep - 0.16), (-0.26, -deep - hook), (-0.3, -0.5 * deep))
    below = smooth((0.1, 0.8 * deep), (-0.08, deep + 0.12), (-0.2, deep + 0.08), (-0.16, 0.6 * deep))
    fin = smooth((0.12, 0.02), (-0.02, -0.04), (-0.16, 0.04), (-0.1, 0.14), (0.04, 0.12))
    gill = limb([(0.24, -0.5 * deep), (0.19, 0.0), (0.24, 0.5 * deep)], 0.02, 0.02)
    mouth = limb([(0.5, 0.06), (0.44, 0.07), (0.4, 0.05)], 0.022, 0.014)
    parts = [Part(tail, 0.8), Part(back, 0.75), Part(below, 0.75), Part(body, 1.0, 0.45)]
    if rng.random() < 0.5:
        parts += [Part(_band(s, deep), CREAM if rng.random() < 0.5 else 1.35, 0.2) for s in (0.06, -0.22)]
    else:
        parts += [
            Part(limb([(s, -0.1), (s - 0.05, 0.0), (s, 0.1)], 0.016, 0.016), 0.72, 0.0) for s in (0.08, -0.08, -0.24)
        ]
    parts += [Part(gill, 0.68, 0.0), Part(fin, 0.78, 0.2), Part(mouth, INK, 0.0), *eye(0.34, -0.22 * deep - 0.02, 0.04)]
    return Drawing(parts, "swim", sway=0.2)


def _band(x: float, deep: float) -> Points:
    high = 0.9 * deep * np.sqrt(1 - (x / 0.52) ** 2) * (1 + 0.4 * x)
    return smooth(
        (x + 0.05, -high), (x + 0.08, 0.0), (x + 0.05, high), (x - 0.05, high), (x - 0.02, 0.0), (x - 0.05, -high)
    )


def cat(rng: np.random.Generator) -> Drawing:
    """Return a sitting cat that faces the viewer."""
    fat, r, hx = rng.uniform(0.88, 1.15), rng.uniform(0.22, 0.26), rng.uniform(-0.04, 0.08)
    hy, tilt, wave = -0.42, rng.uniform(-0.15, 0.15), rng.uniform(0.25, 0.45)
    w = 0.28 * fat
    body = smooth(
        (0.1, -0.32),
        (0.2, -0.05),
        (w, 0.22),
        (w, 0.44),
        (0.16, 0.5),
        (-0.2, 0.5),
        (-w - 0.04, 0.42),
        (-w, 0.18),
        (-0.16, -0.1),
        (-0.1, -0.32),
    )
    tail = limb([(-0.16, 0.42), (-0.42, 0.42), (-0.52, wave - 0.2), (-0.4, wave - 0.42)], 0.13, 0.08)
    face = _cat_face(rng, r)
    chest = smooth((0.0, -0.2), (0.12, 0.0), (0.06, 0.2), (0.0, 0.26), (-0.06, 0.2), (-0.1, 0.0))
    legs = [Part(limb([(x, 0.1), (x, 0.46)], 0.1, 0.13), 0.92, 0.25) for x in (-0.1, 0.1)]
    paws = [Part(ellipse(x, 0.47, 0.095, 0.055), CREAM, 0.2) for x in (-0.1, 0.1)]
    placed = [Part(turned(part.outline, tilt, hx, hy), part.paint, part.relief) for part in face]
    bib = [Part(chest, CREAM, 0.1)] if rng.random() < 0.5 else []
    return Drawing([Part(tail, 0.82), Part(body, 1.0, 0.4), *bib, *legs, *paws, *placed], "stand")


def _cat_face(rng: np.random.Generator, r: float) -> list[Part]:
    """Return a head of radius `r` centred on the origin, with or without stripes."""
    head = smooth(
        (0.0, -0.82 * r),
        (0.62 * r, -0.75 * r),
        (1.05 * r, 0.0),
        (0.75 * r, 0.66 * r),
        (0.0, 0.86 * r),
        (-0.75 * r, 0.66 * r),
        (-1.05 * r, 0.0),
        (-0.62 * r, -0.75 * r),
    )
    ears = [points((s * 0.3 * r, -0.7 * r), (s * 0.82 * r, -1.5 * r), (s * 1.0 * r, -0.25 * r)) for s in (-1, 1)]
    inner = [points((s * 0.5 * r, -0.75 * r), (s * 0.78 * r, -1.22 * r), (s * 0.86 * r, -0.55 * r)) for s in (-1, 1)]
    muzzle = ellipse(0, 0.38 * r, 0.42 * r, 0.3 * r)
    nose = points((-0.1 * r, 0.2 * r), (0.1 * r, 0.2 * r), (0.0, 0.34 * r))
    face = [Part(ear, 0.85) for ear in ears] + [Part(ear, (232, 170, 164), 0.0) for ear in inner]
    face += [Part(head, 1.0, 0.4), Part(muzzle, CREAM, 0.1), Part(nose, (206, 104, 108), 0.0)]
    for s in (-1, 1):
        face += [Part(ellipse(s * 0.42 * r, -0.14 * r, 0.2 * r, 0.23 * r), (222, 226, 130), 0.0)]
        face += [Part(ellipse(s * 0.42 * r, -0.14 * r, 0.1 * r, 0.21 * r), INK, 0.0)]
        face += [
            Part(
                limb([(s * 0.4 * r, (0.4 + 0.1 * i) * r), (s * 1.35 * r, (0.3 + 0.22 * i) * r)], 0.016, 0.012),
                CREAM,
                0.0,
            )
            for i in (0, 1)
        ]
    if rng.random() < 0.5:
        face += [
            Part(limb([(x * r, -0.74 * r), (0.8 * x * r, -0.45 * r)], 0.04, 0.02), 0.65, 0.0)
            for x in (-0.28, 0.0, 0.28)
        ]
    return face


def butterfly(rng: np.random.Generator) -> Drawing:
    """Return a butterfly with open wings."""
    wide, tall, spot = rng.uniform(0.9, 1.15), rng.uniform(0.9, 1.15), rng.uniform(0.05, 0.08)
    angle, mark = rng.uniform(-0.5, 0.5), (CREAM, INK, (246, 206, 96))[rng.integers(3)]
    parts: list[Part] = []
    for s in (-1, 1):
        upper = smooth((0.02, -0.06), (0.1, -0.3), (0.34, -0.52), (0.56, -0.5), (0.6, -0.3), (0.46, -0.08), (0.2, 0.04))
        lower = smooth((0.03, 0.0), (0.26, 0.02), (0.46, 0.14), (0.44, 0.36), (0.3, 0.46), (0.16, 0.38), (0.06, 0.16))
        stretch = [s * wide, tall]
        parts += [Part(lower * stretch, 0.85, 0.25), Part(upper * stretch, 1.0, 0.25)]
        parts += [Part(ellipse(0.44, -0.34, 1.3 * spot, spot, 0.5) * stretch, mark, 0.0)]
        parts += [Part(ellipse(0.3, 0.24, spot, spot) * stretch, mark, 0.0)]
        parts += [Part(limb([(0.06, -0.1), (0.2, -0.22), (0.3, -0.28)], 0.02, 0.03) * stretch, 0.62, 0.0)]
        parts += [Part(limb([(0.01, -0.24), (0.06, -0.42), (0.16, -0.52)], 0.022, 0.022) * stretch, INK, 0.0)]
    parts += [Part(smooth((0.0, -0.3), (0.05, -0.2), (0.035, 0.1), (0.0, 0.3), (-0.035, 0.1), (-0.05, -0.2)), INK, 0.2)]
    return Drawing([Part(turned(part.outline, angle), part.paint, part.relief) for part in parts], "fly")
