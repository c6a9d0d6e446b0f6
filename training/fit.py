"""Training for a given time, with checkpoints to go on from."""

import math
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

Tensors = tuple[Tensor, ...] | list[Tensor]


def fit(module: pl.LightningModule, folder: Path, minutes: float, batch: int, count: int) -> None:
    """Train on batches of indices below `count`; go on where `folder` says, for what is left of the minutes."""
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=-1,
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        gradient_clip_val=1.0,
        benchmark=True,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[
            Timer(timedelta(minutes=minutes)),
            ModelCheckpoint(folder, save_last=True, every_n_train_steps=1000, save_top_k=0),
        ],
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(torch.arange(count)), batch, shuffle=True, drop_last=True)
    last = folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=str(last) if last.is_file() else None)
    trainer.save_checkpoint(last)


def optimizer(module: pl.LightningModule, trained: nn.Module, lr: float, warmup: int) -> OptimizerLRScheduler:
    """AdamW; the learning rate rises for `warmup` steps, then falls as a cosine of the time that is used up."""
    timer = next(callback for callback in module.trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]

    def factor(step: int) -> float:
        used, left = timer.time_elapsed(), timer.time_remaining() or 0.0
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * used / max(used + left, 1e-9)))

    adam = torch.optim.AdamW(trained.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
    return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of the module whose weights follow exponentially; call update_parameters after each step.

    The decay starts low, so that a short run's average does not remember where the weights began.
    """

    def average(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(averages, weights, count)

    return AveragedModel(module, multi_avg_fn=average)
