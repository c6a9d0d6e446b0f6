"""Creates drawings of birds: songbirds on a branch or on the ground, birds in flight, and ducks."""

import numpy as np

from training.scenes.curves import Points, bend, limb, points, smooth, turned
from training.scenes.drawing import BEAK, CREAM, Drawing, Part, eye
from training.scenes.ducks import duck


def bird(rng: np.random.Generator) -> Drawing:
    """Return a bird that faces right."""
    kind = rng.choice(["songbird", "flying", "duck"], p=[0.55, 0.3, 0.15])
    return {"songbird": _songbird, "flying": _flying, "duck": duck}[str(kind)](rng)


def _beak_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    return (BEAK, (70, 62, 62), (222, 120, 70))[rng.integers(3)]


def _songbird(rng: np.random.Generator) -> Drawing:
    plump, head, neck = rng.uniform(0.85, 1.2), rng.uniform(0.9, 1.15), rng.uniform(-0.05, 0.08)
    lean, dip = rng.uniform(-0.25, 0.15), rng.uniform(-0.35, 0.45)
    beak_length, tail_length = rng.uniform(0.13, 0.26), rng.uniform(0.35, 0.7)
    hx, hy, r = 0.31, -0.31 - neck, 0.175 * head
    body = _songbird_body(hx, hy, r, plump)
    tail = turned(
        points(
            (0.05, -0.07), (-tail_length, -0.09), (-tail_length - 0.05, 0.0), (-tail_length + 0.02, 0.08), (0.05, 0.08)
        ),
        -0.4 + dip,
        -0.34,
        0.12,
    )
    belly = smooth((0.3, 0.0), (0.34, 0.1), (0.2, 0.15 + 0.08 * plump), (0.0, 0.14 + 0.11 * plump), (0.1, 0.12))
    wing = smooth(
        (0.14, -0.1), (0.17, 0.0), (0.08, 0.1), (-0.12, 0.17), (-0.36, 0.2), (-0.58, 0.26), (-0.34, 0.06), (-0.06, -0.1)
    )
    feathers = [
        limb([(0.02, 0.06 - 0.04 * i), (-0.18, 0.1 - 0.03 * i), (-0.38, 0.17 - 0.03 * i)], 0.012, 0.02)
        for i in range(3)
    ]
    crest = smooth((hx + 0.3 * r, hy - 0.8 * r), (hx - 0.55 * r, hy - 1.9 * r), (hx - 0.95 * r, hy - 0.2 * r))
    beak = points((hx + 0.75 * r, hy - 0.35 * r), (hx + r + beak_length, hy + 0.1 * r), (hx + 0.82 * r, hy + 0.4 * r))
    upper = [Part(tail, 0.72), Part(beak, _beak_colour(rng), 0.2)]
    upper += [Part(crest, 0.85)] if rng.random() < 0.3 else []
    upper += [Part(body, 1.0, 0.45)]
    upper += [Part(belly, CREAM if rng.random() < 0.35 else 1.25, 0.1)]
    upper += [Part(wing, 0.78, 0.4), *(Part(feather, 0.6, 0.0) for feather in feathers)]
    upper += eye(hx + 0.3 * r, hy - 0.2 * r, 0.03 * (1 + head) / 2 + 0.008)
    tilted = [Part(turned(part.outline, lean), part.paint, part.relief) for part in upper]
    feet_x = 0.08 - 0.1 * lean
    legs = [leg for x in (feet_x - 0.07, feet_x + 0.07) for leg in _leg(x, 0.2, 0.24 + 0.16 * plump + 0.04)]
    return Drawing([*legs, *tilted], "perch" if rng.random() < 0.6 else "stand")


def _songbird_body(hx: float, hy: float, r: float, plump: float) -> Points:
    """Return one outline for body and head; the head has radius `r` and centre (hx, hy)."""
    return smooth(
        (hx + 0.92 * r, hy - 0.3 * r),
        (hx + 0.5 * r, hy - 0.9 * r),
        (hx - 0.25 * r, hy - 0.98 * r),
        (hx - 0.9 * r, hy - 0.45 * r),
        (0.03, -0.2),
        (-0.2, -0.06),
        (-0.42, 0.1),
        (-0.4, 0.18),
        (-0.2, 0.2 + 0.08 * plump),
        (0.05, 0.17 + 0.12 * plump),
        (0.24, 0.12 + 0.08 * plump),
        (0.33 + 0.06 * plump, -0.04),
        (hx + 0.8 * r, hy + 0.65 * r),
    )


def _leg(x: float, top: float, bottom: float) -> list[Part]:
    colour = (104, 76, 62)
    shin = limb([(x - 0.02, top), (x, bottom - 0.02)], 0.04, 0.025)
    toes = [limb([(x, bottom - 0.025), (x + dx, bottom)], 0.028, 0.02) for dx in (-0.05, 0.07)]
    return [Part(outline, colour, 0.0) for outline in (shin, *toes)]


def _wing(span: float, chord: float, feathers: int) -> Points:
    """Return a wing that extends upwards from its root at the origin; its feather tips are on the left."""
    leading = bend(
        [(0.5 * chord, 0.04), (0.54 * chord, -0.3 * span), (0.18 * chord, -0.7 * span), (-0.5 * chord, -span)]
    )
    t = np.linspace(0, 1, 6 * feathers + 1)
    reach = 0.5 + 0.12 * np.sin(np.pi * t) + 0.16 * np.abs(np.sin(feathers * np.pi * t))
    trailing = np.stack([-chord * reach, -span * (1 - t) ** 1.15 + 0.04 * t], 1)
    return np.concatenate([leading, trailing])


def _flying(rng: np.random.Generator) -> Drawing:
    span, chord, slim = rng.uniform(0.68, 0.92), rng.uniform(0.34, 0.44), rng.uniform(0.8, 1.15)
    fan, sweep = rng.uniform(0.08, 0.16), rng.uniform(-0.5, 0.1)
    body = smooth(
        (0.57, -0.07),
        (0.5, -0.16),
        (0.38, -0.17),
        (0.24, -0.11 * slim),
        (-0.1, -0.12 * slim),
        (-0.42, -0.03),
        (-0.42, 0.04),
        (-0.1, 0.14 * slim),
        (0.2, 0.16 * slim),
        (0.42, 0.09),
        (0.54, 0.02),
    )
    tail = points((-0.34, -0.05), (-0.74, -fan - 0.03), (-0.68, 0.0), (-0.76, fan), (-0.34, 0.06))
    beak = points((0.54, -0.11), (0.58 + rng.uniform(0.1, 0.2), -0.03), (0.53, 0.01))
    spread = rng.random() < 0.35  # one wing up and one down, as in a turn; otherwise both up
    quills = [limb([(x, -0.25 * span), (x - 0.16 * chord, -0.6 * span)], 0.025, 0.02) for x in (-0.3 * chord, 0.0)]
    near = [
        Part(turned(shape, sweep), tint, relief)
        for shape, tint, relief in (
            (_wing(span, chord, int(rng.integers(4, 7))), 0.86, 0.3),
            *((quill, 0.68, 0.0) for quill in quills),
        )
    ]
    near = [Part(part.outline * [1, -1 if spread else 1] + [0.04, -0.04], part.paint, part.relief) for part in near]
    far = turned(_wing(0.92 * span, 0.9 * chord, 5), sweep + (0.1 if spread else 0.7), 0.1, -0.05)
    belly = smooth((0.42, 0.05), (0.2, 0.13 * slim), (-0.1, 0.11 * slim), (-0.25, 0.06), (0.0, 0.07), (0.2, 0.06))
    parts = [
        Part(far, 0.72),
        Part(tail, 0.78),
        Part(beak, _beak_colour(rng), 0.2),
        Part(body, 1.0, 0.4),
        Part(belly, CREAM if rng.random() < 0.35 else 1.25, 0.1),
        *near,
        *eye(0.44, -0.07, 0.028),
    ]
    return Drawing(parts, "fly", sway=0.25)
