"""Data parallel training with OCNOpt, one process per GPU or, without one, per group of cores.

torchrun --nproc-per-node 2 examples/distributed.py
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ocnopt import OCNOpt


def data() -> TensorDataset:
    """Points in 16 dimensions and which of four linear scores is the largest: the same on all processes."""
    draws = torch.Generator().manual_seed(0)
    x, scores = torch.randn(2048, 16, generator=draws), torch.randn(16, 4, generator=draws)
    return TensorDataset(x, (x @ scores).argmax(1))


def train(device: torch.device, epochs: int = 2) -> nn.Module:
    """The trained network; the first process prints its loss on its last batch of every epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).to(device)
    wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    optimizer = OCNOpt(wrapped)
    samples = data()
    sampler = DistributedSampler(samples)  # all processes get the same number of batches
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in DataLoader(samples, batch_size=64, sampler=sampler):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(wrapped(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
        if distributed.get_rank() == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {optimizer.diagnostics()['collectives']} collectives")
    return model


def same_everywhere(model: nn.Module) -> bool:
    """Whether all processes hold the same bits."""
    own = torch.cat([p.detach().flatten() for p in model.parameters()])
    every: list[Tensor] = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    return all(torch.equal(own, other) for other in every)


def main() -> None:
    gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    same = same_everywhere(train(device))
    if distributed.get_rank() == 0:
        print(f"parameters are the same bits on all {distributed.get_world_size()} processes: {same}")
    distributed.destroy_process_group()
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
