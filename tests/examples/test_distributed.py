"""Processes that share the batches learn what one process learns of all images together."""

import contextlib
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cnnkernels import host

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")

SCRIPT = Path(__file__).parents[2] / "examples/train_distributed.py"

CLOSE = 1e-5
"""Of each tensor's norm. Gradients are summed in another order, which changes float32 by 6e-8 of
itself, and each of the 28 steps goes on from the last one's difference: 2e-7 in the end, measured.
With a share left out it is 0.4."""

ONE_MACHINE = [["--standalone", "--nproc-per-node=2"]]
TWO_MACHINES = [["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=digits"]] * 2


def run_together(commands, *arguments):
    """Run the example under torchrun, once a machine; return what each of them printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": socket.if_nameindex()[0][1],  # the loopback
        "OMP_NUM_THREADS": "3",  # too many: the program has to set its own
    }
    with contextlib.ExitStack() as stack:
        running = []
        for command in commands:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--local-addr=127.0.0.1"]
            process = subprocess.Popen(
                [*torchrun, endpoint, *command, SCRIPT, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.terminate)  # torchrun ends the processes that it started
            running.append(process)
        printed = [process.communicate(timeout=240) for process in running]
    for process, (_, errors) in zip(running, printed, strict=True):
        assert process.returncode == 0, errors
    return [lines for lines, _ in printed]


@pytest.mark.slow
@pytest.mark.parametrize("commands", [ONE_MACHINE, TWO_MACHINES], ids=["one", "two"])
def test_two_processes_learn_the_weights_of_one(commands, tmp_path):
    how = ["--epochs", "1", "--backend", "numba-simd", "--seed", "3", "--batch", "64"]
    printed = run_together(commands, *how, "--save", tmp_path / "weights.pt")

    share = max(1, host.cores() // (2 // len(commands)))
    threads = {"torch": share, "numba": share}
    for process in (0, 1):  # lines of two processes may meet
        assert f"process {process} of 2, threads {threads}" in "".join(printed)

    example = runpy.run_path(str(SCRIPT))
    torch.manual_seed(3)
    alone = layers.convert(example["model"](), "numba-simd")
    (loss,) = example["train"](alone, epochs=1, batch=64, seed=3)
    (told,) = re.findall(r"epoch 1, loss ([\d.]+)", "".join(printed))
    assert float(told) == pytest.approx(loss, rel=CLOSE)
    together = torch.load(tmp_path / "weights.pt")
    assert together.keys() == alone.state_dict().keys()
    for name, right in alone.state_dict().items():
        assert torch.norm(together[name] - right) <= CLOSE * torch.norm(right), name


@pytest.mark.parametrize(
    ("environment", "arguments", "said"),
    [
        ({}, [], "torchrun starts this program"),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "3"}, ["--batch", "64"], "of the 3 processes"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_sentence(environment, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert said in capsys.readouterr().err
