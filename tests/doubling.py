"""An op that writes into tensors of the caller. In a file of its own, because test modules may be imported twice."""

import torch
from torch import Tensor

WRITTEN: list[list[int]] = []  # the addresses of each call's results


@torch.library.custom_op("canny2image_tests::double_into", mutates_args=("results",))
def double_into(xs: list[Tensor], results: list[Tensor]) -> None:
    WRITTEN.append([result.data_ptr() for result in results])
    for x, result in zip(xs, results, strict=True):
        torch.mul(x, 2, out=result)


@double_into.register_fake
def _(xs: list[Tensor], results: list[Tensor]) -> None:
    pass
