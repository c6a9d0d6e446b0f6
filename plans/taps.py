"""Fits taps: weights on the eps of the last evaluations. The weighted sum serves as eps until the next evaluation."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion import Floats
from plans.plan import LARGEST_TAP

RIDGE = 1e-2  # strength of the pull towards held eps, relative to the weighted square of one example's eps
ROUNDS = 3  # number of times that the examples are reweighted
FLOOR = 1e-6  # relative to the square of eps: smaller errors do not increase the weight further

Taps = tuple[float, ...]
# (steps evaluated so far, index to go to, eps newest first, target) -> taps. The target is the eps that would lead
# exactly to the whole run's latent. The tensors contain only the examples that taps are fitted on.
Rule = Callable[[Sequence[int], int, Sequence[Tensor], Tensor], Taps]


def hold(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
    """Return a single tap of 1: the last eps is held."""
    return (1.0,)


def fitted(taps: int) -> Rule:
    """Return the rule that fits weights on the last `taps` eps to get as close as possible to the whole run.

    It minimizes the mean log distance by iterative reweighting, so that every example counts equally, however large
    its distance. It increases the ridge until no weight exceeds LARGEST_TAP in magnitude.
    The rule raises ValueError for NaN or infinite values.
    """

    def rule(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
        known = torch.stack([one.flatten(1).double() for one in eps[:taps]])  # [taps, m, values]
        wanted = target.flatten(1).double()
        if not (known.isfinite().all() and wanted.isfinite().all()):
            raise ValueError(f"the network returned non-finite values at or after step {evaluated[-1]}; try fp32")
        floor = FLOOR * known[0].square().sum(dim=1)
        found = np.eye(len(known))[0]
        for _ in range(ROUNDS):
            apart = wanted - torch.einsum("a,amd->md", torch.from_numpy(found).to(known), known)
            weights = 1 / (apart.square().sum(dim=1) + floor)
            gram = torch.einsum("amd,m,bmd->ab", known, weights, known).cpu().numpy()
            moment = torch.einsum("amd,m,md->a", known, weights, wanted).cpu().numpy()
            found = _bounded(gram, moment, RIDGE / len(wanted))
        return (*found.tolist(), *[0.0] * (taps - len(known)))

    return rule


def _bounded(gram: Floats, moment: Floats, share: float) -> Floats:
    unit = np.eye(len(gram))
    ridge = share * float(gram.diagonal().mean())
    while True:
        weights = np.linalg.solve(gram + ridge * unit, moment + ridge * unit[0])
        if float(np.abs(weights).max()) <= LARGEST_TAP:
            return weights
        ridge *= 10
