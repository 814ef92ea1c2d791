"""The names in the contract that kernels and their callers rely on."""

from cnnkernels import contract
from cnnkernels.contract import Needs, Unsupported


def test_unsupported_is_the_error_that_others_take_for_a_skip():
    assert issubclass(Unsupported, NotImplementedError)


def test_all_gradients_are_needed_by_default():
    assert contract.ALL == Needs() == (True, True, True)
    assert Needs._fields == contract.Conv2DGradients._fields == ("dx", "dw", "db")
