"""Taps: the weights on the last evaluations' eps that stand for the eps of the steps in between."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion import Floats
from plans.plan import LARGEST_TAP

RIDGE = 1e-2  # towards holding eps, of the mean square of the eps of one example
ROUNDS = 3  # of weighing the examples anew
FLOOR = 1e-6  # of the square of eps: nearer than this counts no more

Taps = tuple[float, ...]
# Steps evaluated until now, index to go to, eps newest first, and the eps that would lead to the whole run's latent;
# both of the examples that taps are fitted on.
Rule = Callable[[Sequence[int], int, Sequence[Tensor], Tensor], Taps]


def hold(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
    """The seed's rule: the last eps as it is."""
    return (1.0,)


def fitted(taps: int) -> Rule:
    """The weights on the last eps that come nearest to the whole run, with as much ridge as keeps them in bounds.

    Nearest in the mean log distance, so that every example counts for as much, however far it is.
    """

    def rule(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
        known = torch.stack([one.flatten(1).double() for one in eps[:taps]])  # [taps, m, values]
        wanted = target.flatten(1).double()
        if not (known.isfinite().all() and wanted.isfinite().all()):
            raise ValueError(f"the network gave values that are not finite before step {evaluated[-1]}; try fp32")
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
