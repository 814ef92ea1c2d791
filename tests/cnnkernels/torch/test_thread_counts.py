"""Numba uses as many threads as PyTorch, and PyTorch's count is preserved."""

import warnings

import pytest

from cnnkernels import host, registry
from cnnkernels.contract import Unsupported

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")


def test_threads_follow_pytorchs(draw):
    most = pytest.importorskip("numba").config.NUMBA_NUM_THREADS
    before = torch.get_num_threads()
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with warnings.catch_warnings(record=True):
                layers.conv2d(x, w, backend="numba-simd").sum().backward()
            assert torch.get_num_threads() == count
            assert layers.threads() == {"torch": count, "numba": min(count, most)}
    finally:
        torch.set_num_threads(before)


def test_threads_stay_where_a_backend_fails_to_load(monkeypatch, draw):
    before = torch.get_num_threads()

    def failing(name):
        torch.set_num_threads(before + 1)
        raise Unsupported(f"{name} cannot run here")

    monkeypatch.setattr(registry, "load", failing)
    try:
        with pytest.raises(Unsupported, match="cannot run here"):
            layers.max_pool2d(draw(1, 1, 4, 4), 2, backend="numpy")
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("processes", "environment", "expected"),
    [(None, None, 5), (None, "2", 2), (None, "9", 1), (1, "2", 5), (3, None, 1)],
)
def test_a_process_has_its_share_of_the_cores(monkeypatch, processes, environment, expected):
    monkeypatch.setattr(host, "cores", lambda: 5)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if environment is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", environment)
    before = torch.get_num_threads()
    try:
        assert layers.set_threads(processes) == expected
        assert layers.threads()["torch"] == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "count"), [(1, 4), (2, 2)])
def test_threads_are_as_set_after_the_first_step(python, processes, count):
    pytest.importorskip("numba")
    told = python(
        "import torch\n"
        "from torch import nn\n"
        "import cnnkernels.torch as layers\n"
        "from cnnkernels import host\n"
        "host.cores = lambda: 4\n"
        f"assert layers.set_threads({processes}) == {count}\n"
        "print(layers.threads())\n"
        "network = layers.convert(nn.MaxPool2d(2), 'numba')\n"
        "network(torch.ones(2, 4, 4, 4, requires_grad=True)).sum().backward()\n"
        "print(layers.threads())",
        NUMBA_NUM_THREADS="3",
    )
    assert told.splitlines() == [str({"torch": count, "numba": min(3, count)})] * 2


def test_a_share_of_no_processes_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="processes: expected 1 or more, got 0"):
        layers.set_threads(0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE: expected a number, got 'two'"):
        layers.set_threads()
