r"""Train a converted model in several processes, on one or more machines.

Every process has the network, and computes its share of each batch. PyTorch's
DistributedDataParallel averages the gradients, so every step equals that of one process with the
whole batch. Two lines differ from any such program: one converts the model, the other gives the
process its share of the cores.

On one machine, with two processes that share its cores:

    torchrun --standalone --nproc-per-node=2 examples/train_distributed.py

On two machines with two processes each, run this on both. HOST is the name or address of one of
them, reachable from the other; its port 29500 must be free.

    torchrun --nnodes=2 --nproc-per-node=2 --rdzv-id=digits --rdzv-backend=c10d \
        --rdzv-endpoint=HOST:29500 examples/train_distributed.py

All machines need the same versions. torchrun numbers them itself, so --node-rank and --master-addr
are not needed. If other machines cannot reach a machine by its own name, give its torchrun
--local-addr=ITS-ADDRESS. If it has several networks, choose one with GLOO_SOCKET_IFNAME=eth0 before
the command.

--backend auto follows the plan in CNNKERNELS_PLAN=plan.json. Make the plan for one process's share
of a batch and its threads, here half of 64 images and one thread:

    cnnbench recommend examples.train_distributed:model --input 32,1,8,8 --threads 1
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import cnnkernels.torch


def model() -> nn.Module:
    """Return a CNN for the digits, 8x8 gray images.

    It has no BatchNorm, which would average over one process's images instead of the whole batch.
    SyncBatchNorm averages over the whole batch, but runs on GPUs only.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train(
    network: nn.Module, epochs: int, batch: int, seed: int, process: int = 0, processes: int = 1
) -> list[float]:
    """Train on one process's share of every batch; return the loss of each epoch on that share.

    Every process draws the same batches; process p of n takes the images p, p + n, p + 2n, ...
    """
    device = next(network.parameters()).device
    digits = load_digits()
    images = torch.tensor(digits.images[:, None], dtype=torch.float32, device=device) / 16
    labels = torch.tensor(digits.target, device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        total = 0.0
        chosen = torch.randperm(len(images), generator=order).split(batch)[:-1]  # whole batches
        for together in chosen:
            some = together[process::processes]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[some]), labels[some])
            loss.backward()  # DistributedDataParallel averages the gradients here
            optimizer.step()
            total += loss.item()
        losses.append(total / len(chosen))
    return losses


def main() -> None:
    """Train as one of torchrun's processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", default="numba-simd", help="backend of converted layers, or auto"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: one GPU per process, with unconverted layers; converted ones need a CPU",
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="batch size over all processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="save the trained state_dict here")
    given = parser.parse_args()
    if not torch.distributed.is_torchelastic_launched():
        parser.error("torchrun starts this program: torchrun --standalone --nproc-per-node=2 ...")
    processes = int(os.environ["WORLD_SIZE"])
    if given.batch not in range(processes, 1001, processes):
        parser.error(
            f"--batch: expected a multiple of the {processes} processes, at most 1000, "
            f"got {given.batch}"
        )

    cnnkernels.torch.set_threads()  # before any computation, take this share of the cores
    torch.manual_seed(given.seed)
    network = model()
    if given.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        network.cuda()
        torch.distributed.init_process_group("nccl")
    else:
        cnnkernels.torch.convert(network, given.backend)
        torch.distributed.init_process_group("gloo")
    process = torch.distributed.get_rank()
    print(f"process {process} of {processes}, threads {cnnkernels.torch.threads()}", flush=True)

    # The wrapper has no name, so it is freed before the group. Freed last, it would wait for gloo's
    # thread while it holds Python's lock, which that thread may be waiting for.
    losses = torch.tensor(
        train(
            DistributedDataParallel(network),
            given.epochs,
            given.batch,
            given.seed,
            process,
            processes,
        ),
        device=given.device,
    )
    torch.distributed.all_reduce(losses)
    if process == 0:
        for epoch, loss in enumerate((losses / processes).tolist(), start=1):
            print(f"epoch {epoch}, loss {loss:.5f}", flush=True)
        if given.save:
            torch.save(network.state_dict(), given.save)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
