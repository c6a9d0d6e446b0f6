"""Builds the engines that this machine can have."""

import torch


def main() -> None:
    where = "a CUDA device is here" if torch.cuda.is_available() else "no CUDA device"
    print(f"engines: backend eager runs the PyTorch modules themselves; nothing to build ({where})")


if __name__ == "__main__":
    main()
