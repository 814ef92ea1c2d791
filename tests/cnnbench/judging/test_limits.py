"""The machine's ceilings are measured, or it is said why not."""

import math
import re

import pytest

from cnnbench.judging import limits
from cnnbench.judging.limits import measure_ceilings
from cnnbench.results import Row
from cnnkernels.descriptor import parse


def test_ceilings_that_fail_are_a_reason(monkeypatch):
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "nonsense")
    found = measure_ceilings(1)
    assert list(found) == ["reason"]
    assert re.search("^NUMBA_THREADING_LAYER: expected .*, got .nonsense.$", found["reason"])


@pytest.fixture(scope="module")
def measured():
    """Return the ceilings of one thread."""
    return measure_ceilings(1)


@pytest.mark.slow
def test_the_peak_is_the_machines_whatever_numba_is_told_to_compile_for(measured, monkeypatch):
    own = measured["flops"]["float32"]
    for name, value in (("CPU_NAME", "generic"), ("ENABLE_AVX", "0"), ("DISABLE_JIT", "1")):
        monkeypatch.setenv(f"NUMBA_{name}", value)
    crippled = measure_ceilings(1)["flops"]["float32"]
    assert crippled > 0.7 * own


@pytest.mark.slow
def test_ceilings_are_measured_for_a_number_of_threads(measured):
    assert measured["threads"] == 1
    assert set(measured["flops"]) == {"float32", "float64"}
    assert all(math.isfinite(rate) and rate > 0 for rate in measured["flops"].values())
    sizes = [int(size) for size in measured["bandwidth"]]
    assert sizes == sorted(sizes)
    assert sizes[0] <= 2**15 < 2**28 <= sizes[-1]
    assert min(measured["bandwidth"].values()) > 0


def test_a_higher_peak_lowers_the_shares_of_what_was_judged_by_the_lower(monkeypatch):
    def row(**told):
        return Row("a", "a", "conv2d", "forward", "numpy", 2, "ok", **told)

    convolution = row(gflops=50.0, ceiling_fraction=0.5)
    pooling = row(ceiling_fraction=0.5)
    alone = row(gflops=50.0, ceiling_fraction=0.5)
    alone.threads = 1
    monkeypatch.setattr(limits, "measure_ceilings", lambda _: {"flops": {"float32": 2e11}})
    found = {"flops": {"float32": 1e11}}
    limits._measure_peak_again(found, 2, "float32", [convolution, pooling, alone])
    assert found["flops"]["float32"] == 2e11
    assert [r.ceiling_fraction for r in (convolution, pooling, alone)] == [0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    ("products", "outcome", "fraction"), [(None, "failed", None), (600_000, "ok", 0.8)]
)
def test_a_time_is_judged_by_the_products_that_an_algorithm_computes(products, outcome, fraction):
    problem = parse("mb1ic100ih10oc100oh10kh1ph0")  # 1e6 products
    row = Row("a", str(problem), "conv2d", "forward", "mine", 1, "ok", seconds=1.0)
    if products is not None:
        row.details["products"] = products
    limits.judge(row, problem, "cpu", {"flops": {"float32": 1.5e6}, "flops_again": {}}, [])
    assert (row.outcome, row.ceiling_fraction) == (outcome, fraction)
    assert row.gflops == (None if outcome == "failed" else 2e-3)
