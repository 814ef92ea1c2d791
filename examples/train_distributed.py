r"""Train a converted model in several processes, on one machine or on several.

Every process has the network, and computes its share of each batch. PyTorch's own
DistributedDataParallel averages the gradients, so that all take the step that one process would
take with the whole batch. Two lines differ from any such program: the model is converted, and the
process is given its share of the cores.

On one machine, with two processes that share its cores:

    torchrun --standalone --nproc-per-node=2 examples/train_distributed.py

On two machines, with two processes each, this on both. HOST is the name or the address of one of
them, at which the other reaches it; its port 29500 has to be free.

    torchrun --nnodes=2 --nproc-per-node=2 --rdzv-id=digits --rdzv-backend=c10d \
        --rdzv-endpoint=HOST:29500 examples/train_distributed.py

All machines need the same versions. torchrun numbers them by itself: --node-rank, which goes with
--master-addr, is not needed here. Where the others cannot find a machine by its own name, its
torchrun takes --local-addr=ITS-ADDRESS; where it has several networks, GLOO_SOCKET_IFNAME=eth0
before the command says which to use.

--backend auto follows the plan that CNNKERNELS_PLAN=plan.json names. It is made for one process's
share of a batch and for its threads, here half of 64 images and one thread:

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
    """Return a CNN for the digits' 8x8 grey images.

    Without BatchNorm: it would take the mean of a process's own images, where one process takes
    that of all, and SyncBatchNorm, which takes that of all too, runs on GPUs only.
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

    Every process draws the same batches, and takes each of its images from its own place on.
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
    """Train as one of the processes that torchrun starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="numba-simd", help="of converted layers, or auto")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: one GPU a process, and PyTorch's own layers; converted ones are for CPUs",
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="images of all processes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="for the state_dict of what was trained")
    given = parser.parse_args()
    if not torch.distributed.is_torchelastic_launched():
        parser.error("torchrun starts this program: torchrun --standalone --nproc-per-node=2 ...")
    processes = int(os.environ["WORLD_SIZE"])
    if given.batch not in range(processes, 1001, processes):
        parser.error(
            f"--batch: expected a multiple of the {processes} processes, at most 1000, "
            f"got {given.batch}"
        )

    cnnkernels.torch.set_threads()  # before anything computes: this process's share of the cores
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

    # The wrapper has no name, so that it ends before the group does: ending last, it would wait
    # for gloo's thread with Python's lock in hand, which that thread may be waiting for.
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
