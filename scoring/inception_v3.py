"""The network of the FID metric: computes 2048 features per picture, with the 566 tensors of FID's file."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scoring.inception_table import BLOCKS, STEM, Block, Conv, Pool, Row

FEATURES = 2048
CLASSES = 1008  # outputs of the classifier, which is in the file but not needed for the features
SIDE = 299  # pixels


class ConvNormRelu(nn.Module):
    def __init__(self, channels: int, conv: Conv) -> None:
        super().__init__()
        height, width = conv.kernel
        padding = (height // 2, width // 2) if conv.same else (0, 0)
        self.conv = nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def pool(x: Tensor, kind: Pool) -> Tensor:
    if kind == "average":  # excludes the padding, as TensorFlow does
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, 3, stride=1, padding=1) if kind == "max" else F.max_pool2d(x, 3, stride=2)


class Steps(nn.Module):
    """A module that contains the convolutions of its rows, by name, and runs a row."""

    def add_row(self, channels: int, row: Row) -> int:
        """Create the row's convolutions for `channels` input channels. Return the number of output channels."""
        for step in row:
            if isinstance(step, str):
                continue
            convs = step if isinstance(step, tuple) else (step,)
            for conv in convs:
                self.add_module(conv.name, ConvNormRelu(channels, conv))
            channels = sum(conv.channels for conv in convs)
        return channels

    def walk(self, x: Tensor, row: Row) -> Tensor:
        for step in row:
            if isinstance(step, str):
                x = pool(x, step)
            elif isinstance(step, tuple):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], dim=1)
            else:
                x = self.get_submodule(step.name)(x)
        return x


class Mixed(Steps):
    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        self.block = block
        self.channels = sum(self.add_row(channels, row) for row in block)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.walk(x, row) for row in self.block], dim=1)


class InceptionV3(Steps):
    """uint8 [n, 3, h, w] RGB -> float32 [n, 2048]. Raise ValueError for other inputs."""

    def __init__(self) -> None:
        super().__init__()
        channels = self.add_row(3, STEM)
        for name, block in BLOCKS.items():
            mixed = Mixed(channels, block)
            self.add_module(name, mixed)
            channels = mixed.channels
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"pictures: got {pictures.dtype} {list(pictures.shape)}, expected uint8 [n, 3, h, w]")
        x = F.interpolate(pictures.float() / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x = self.walk(2 * x - 1, STEM)  # [n, 192, 35, 35]
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))  # of [n, 2048, 8, 8]
