"""The checks for every backend, built in or from another package.

To test a backend of your own::

    @pytest.mark.parametrize("descriptor", conformance.CORNER)
    def test_mine(descriptor):
        backend = registry.load("mine")
        conformance.check(backend, parse(descriptor)).require()
"""

from cnnkernels.conformance.broken import BROKEN
from cnnkernels.conformance.calls import Call
from cnnkernels.conformance.changing import ChangingCall, Spots, WrongResult, spots
from cnnkernels.conformance.checks import Check, Outcome, check
from cnnkernels.conformance.corner import CORNER, CORNER_ONNX
from cnnkernels.conformance.fills import filled, real_inputs
from cnnkernels.conformance.gradients import adjoint_error, finite_difference_error

__all__ = [
    "BROKEN",
    "CORNER",
    "CORNER_ONNX",
    "Call",
    "ChangingCall",
    "Check",
    "Outcome",
    "Spots",
    "WrongResult",
    "adjoint_error",
    "check",
    "filled",
    "finite_difference_error",
    "real_inputs",
    "spots",
]
