"""Architecture of InceptionV3 as data; inception_v3.py builds the network from it.

A block consists of parallel branches. Each branch is a row of steps. A step is a convolution, two convolutions of the
same input whose outputs are concatenated, or a pool. The stem is a single row.

Architecture: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567, with the
details of the TensorFlow graph of 2015-12-05 that defines FID. The names are those of its PyTorch port, pytorch-fid's
`pt_inception-2015-12-05-6726825d.pth`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Conv:
    """A convolution with batch norm and ReLU. same: pad so that stride 1 keeps height and width; else no padding."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


Pool: TypeAlias = Literal["average", "max", "halve"]
Step: TypeAlias = Conv | tuple[Conv, Conv] | Pool
Row: TypeAlias = tuple[Step, ...]
Block: TypeAlias = tuple[Row, ...]


def block_a(pooled: int) -> Block:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        ("average", Conv("branch_pool", pooled)),
    )


def block_b() -> Block:
    return (
        (Conv("branch3x3", 384, (3, 3), stride=2, same=False),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), stride=2, same=False),
        ),
        ("halve",),
    )


def block_c(inner: int) -> Block:
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
        (
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("average", Conv("branch_pool", 192)),
    )


def block_d() -> Block:
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), stride=2, same=False)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), stride=2, same=False),
        ),
        ("halve",),
    )


def block_e(pool: Pool) -> Block:
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192)),
    )


STEM: Row = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, same=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), same=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    "halve",
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), same=False),
    "halve",
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(),
    "Mixed_7b": block_e("average"),
    "Mixed_7c": block_e("max"),  # the paper uses average pooling here too; the graph that defines FID does not
}
