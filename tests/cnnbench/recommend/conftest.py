"""Fixtures of this room: a network of three calls, and progress that counts."""

import pytest

from cnnbench.recommend import networks
from cnnbench.recommend.networks import Call

CONV, POOL = "mb2ic3ih6oc4oh6kh3ph1", "mb2ic4ih6oh3kh2sh2ph0"


class Silent:
    def begin(self, total):
        self.left = total

    def step(self, text, count=1):
        assert text
        self.left -= count
        assert self.left >= 0


@pytest.fixture
def silent():
    """Progress that reports no more steps than it began with."""
    return Silent()


@pytest.fixture
def network():
    """A network that calls one convolution twice, and a max-pooling."""
    return networks.of_calls(
        "net:work",
        [
            Call("conv1", CONV, dx=False, dw=True),
            Call("conv2", CONV, dx=True, dw=True),
            Call("pool", POOL, dx=True, dw=False),
        ],
    )
