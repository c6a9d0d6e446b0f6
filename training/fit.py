"""Trains for a given time, and saves checkpoints to resume from."""

import copy
import itertools
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

LOG_STEPS = 50
SAVE_SECONDS = 60.0
EAGER_STEPS = 3  # steps before capture, in which libraries load, cuDNN chooses algorithms, Adam creates its state


class Training(pl.LightningModule):
    """Trains `network` on the loss that a subclass defines; `average` is a moving average of its weights.

    The loss is computed with a copy of the network, in bfloat16 on a GPU; weights, Adam's state and average are
    float32. On a GPU the whole step, from drawing the examples to updating the average, is captured into one CUDA
    graph: launching its thousands of small kernels takes the CPU longer than running them takes the GPU.
    """

    automatic_optimization = False
    learning_rate: Tensor  # on the device, like momentum: a captured step reads both there
    momentum: Tensor  # weight of the previous average in the new average

    def __init__(self, network: nn.Module, lr: float, warmup: int, decay: float, anneal: bool) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.lr, self.warmup, self.decay, self.anneal = lr, warmup, decay, anneal
        self.register_buffer("learning_rate", torch.tensor(lr), persistent=False)
        self.register_buffer("momentum", torch.tensor(0.0), persistent=False)
        self.replay: Callable[[], None] | None = None

    def loss(self, network: nn.Module) -> dict[str, Tensor]:
        """Draw examples and return losses by name. The first loss is minimised, all are logged."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights, on_gpu = self.network.parameters(), torch.cuda.is_available()
        return torch.optim.AdamW(weights, self.lr, (0.9, 0.99), weight_decay=0.01, fused=True, capturable=on_gpu)

    def on_train_start(self) -> None:
        adam = self.optimizers(use_pl_optimizer=False)
        assert isinstance(adam, torch.optim.AdamW)
        self.adam = adam
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate
        for weight in self.network.parameters():
            weight.grad = torch.zeros_like(weight)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.copies = (copy.deepcopy(self.network).to(dtype),)  # a tuple, to keep it out of submodules and checkpoints

    def training_step(self, _: Any, index: int) -> None:
        self._schedule(index)
        if self.device.type != "cuda":
            self.step()
        elif self.replay is None:
            self._record()
        else:
            self.replay()
        if (index + 1) % LOG_STEPS == 0:
            self.log_dict(self.logs, prog_bar=True)

    def step(self) -> None:
        """Run one training step. To be capturable, it neither waits for the GPU nor copies from the CPU."""
        (network,) = self.copies
        weights: list[Tensor] = list(self.network.parameters())
        rounded: list[Tensor] = list(network.parameters())
        with torch.no_grad():
            torch._foreach_copy_(rounded, weights)
        network.zero_grad()
        losses = self.loss(network)
        next(iter(losses.values())).backward()
        self.logs = {name: value.detach().float() for name, value in losses.items()}
        gradients = [torch.as_tensor(weight.grad) for weight in weights]
        torch._foreach_copy_(gradients, [torch.as_tensor(parameter.grad) for parameter in rounded])
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.adam.step()
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            change = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(change, 1 - self.momentum)
            torch._foreach_add_(averages, change)

    def _record(self) -> None:
        # The first backward pass binds gradients to its stream, which must not be the default stream.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(EAGER_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.replay = graph.replay

    def _schedule(self, index: int) -> None:
        """Set learning rate and momentum.

        The rate rises for `warmup` steps; with `anneal` it falls to zero over the whole time, along a cosine.
        """
        timer = next(callback for callback in self.trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
        used, left = timer.time_elapsed(), timer.time_remaining() or 0.0
        cosine = 0.5 * (1 + math.cos(math.pi * used / max(used + left, 1e-9))) if self.anneal else 1.0
        self.learning_rate.fill_(self.lr * min(1.0, (index + 1) / self.warmup) * cosine)
        self.momentum.fill_(average_momentum(index, self.decay))


def average_momentum(step: int, decay: float) -> float:
    """Return the momentum, at most `decay`; low at first, so that the initial weights soon leave the average."""
    return min(decay, (1 + step) / (10 + step))


class Save(pl.Callback):
    """Saves a checkpoint after a step if the last save was more than SAVE_SECONDS ago."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if time.monotonic() - self.last > SAVE_SECONDS:
            trainer.save_checkpoint(self.path)
            self.last = time.monotonic()


def fit(module: Training, folder: Path, minutes: float) -> None:
    """Train `module` in place for `minutes` in total; resume from the checkpoint in `folder` if it exists.

    Write the checkpoint there when done.
    """
    last = folder / "last.ckpt"
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=-1,
        benchmark=True,
        log_every_n_steps=LOG_STEPS,
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=LOG_STEPS),
        callbacks=[Timer(timedelta(minutes=minutes)), Save(last), TQDMProgressBar(refresh_rate=LOG_STEPS)],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    # The module draws its own examples and ignores the values from the loader.
    trainer.fit(module, itertools.repeat(0), ckpt_path=str(last) if last.is_file() else None)
    trainer.save_checkpoint(last)
