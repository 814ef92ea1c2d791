"""Run the checks of every backend on your own: python -m pytest examples/third_party"""

import pytest

from cnnkernels import conformance, registry
from cnnkernels.descriptor import parse


@pytest.mark.parametrize("descriptor", conformance.CORNER)
def test_it_is_right_or_declines(descriptor):
    found = conformance.check(registry.load("my-backend"), parse(descriptor))
    if found.outcome == "unsupported":
        pytest.skip(found.reason)
    found.require()
