"""The benchmarks of the history: each runs once, what they use is frozen, what is wrong fails."""

import ast
import functools
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from asv_runner.benchmarks.mark import SkipNotImplemented

import cnnkernels
from asv_suite import cases, digits, layers, reference, session
from cnnkernels import conformance, registry

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "bench" / "asv_suite"

FROZEN = {
    "cnnkernels.registry",
    "cnnkernels.contract",
}
"""All that may be imported of the package that is measured."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def benchmarks():
    """Yield each benchmark asv would find: class, method, parameters.

    Those of the same parameters follow each other, for they are prepared once.
    """
    for module in (layers, digits):
        for found in vars(module).values():
            if not isinstance(found, type) or found.__module__ != module.__name__:
                continue
            names = [name for name in dir(found) if re.match("(time|track)_", name)]
            if not names:
                continue
            params = found.params if isinstance(found.params[0], list) else [found.params]
            for chosen, name in itertools.product(itertools.product(*params), names):
                if chosen not in getattr(found, "skip_params", []):
                    yield pytest.param(
                        found, name, chosen, id=f"{found.__name__}.{name}-{'-'.join(chosen)}"
                    )


@pytest.mark.parametrize(("program", "threads"), [("asv/benchmark.py", "1"), ("mine.py", "None")])
def test_one_thread_is_set_in_asvs_processes_alone(program, threads, tmp_path):
    path = tmp_path / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "import os, asv_runner, asv_suite\nprint(os.environ.get('NUMBA_NUM_THREADS'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = str(SUITE.parent)
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [threads]


def smaller(sizes):
    """Return a layer of one image with a quarter of the channels, depthwise if it was."""
    names = {"in_channels", "channels", "out_channels"}
    few = {name: -(-size // 4) if name in names else size for name, size in sizes.items()}
    if "groups" in sizes and sizes["groups"] == sizes["in_channels"]:
        few["groups"] = few["in_channels"]
    return few | {"batch": 1}


@pytest.fixture(scope="module", autouse=True)
def small_layers():
    """Make real layers small here; `bench/speed` computes all of them at their own size."""
    with pytest.MonkeyPatch.context() as patch:
        few = {case: smaller(sizes) for case, sizes in cases.REAL.items()}
        patch.setattr(cases, "CASES", cases.CASES | few)
        yield


@pytest.fixture(scope="module")
def expected_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    session.keep_expected(folder)
    return folder


@pytest.fixture(scope="module")
def figures(expected_folder):
    """All figures of all cases, from one round of a call or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "expected_of", functools.partial(session.expected, expected_folder))
        patch.setattr(session, "ROUNDS", 1)
        patch.setattr(session, "SIDE_SECONDS", 0)
        return layers.measure()


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name", "chosen"), list(benchmarks()))
def test_every_benchmark_runs_once(group, name, chosen, expected_folder, figures, monkeypatch):
    monkeypatch.chdir(expected_folder)
    monkeypatch.setattr(digits, "EPOCHS", 4)  # enough to learn
    benchmark = group()
    arguments = chosen
    if getattr(group, "setup_cache", None) is layers.measure:
        arguments = (figures, *chosen)
    try:
        if hasattr(benchmark, "setup"):
            benchmark.setup(*arguments)
        found = getattr(benchmark, name)(*arguments)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert (found is None) == name.startswith("time_")
    assert found is None or found >= 0


def test_only_the_frozen_interface_is_used():
    for path in SUITE.glob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            if top == "cnnkernels":
                assert name in FROZEN, f"{path.name} imports {name}"
            else:
                assert top in {
                    "asv_suite",
                    "asv_runner",
                    "numpy",
                    "sklearn",
                    *sys.stdlib_module_names,
                }


def test_the_matrix_has_the_versions_of_the_constraints():
    text = re.sub(r"^\s*//.*$", "", (ROOT / "asv.conf.json").read_text("utf-8"), flags=re.M)
    matrix = json.loads(text)["matrix"]["req"]
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").split()
        if "==" in line
    )
    assert {name: [pinned[name.removeprefix("pip+")]] for name in matrix} == matrix
    assert {"numpy", "numba", "llvmlite", "torch"} <= set(matrix)


@pytest.mark.parametrize("case", cases.DIGITS)
def test_the_reference_says_what_conformance_says(case):
    problem = cases.problem(case)
    filled = conformance.filled(problem, "integers")
    given = {"x": filled.x, "dy": filled.dy}
    if "w" in session.inputs(case):
        given |= {"w": filled.w, "b": filled.b}
    right = reference.expected(cases.CASES[case], given)
    for name in ("y", "dx", "dw", "db") if "w" in given else ("y", "dx"):
        np.testing.assert_array_equal(right[name], getattr(filled, name), err_msg=name)


@pytest.mark.parametrize("name", ["y", "dx", "dw", "db"])
@pytest.mark.parametrize("spoil", ["one", "shape", "nan"])
def test_what_is_wrong_is_not_timed(name, spoil):
    case = "digits.conv2"
    right = session.expected_of(case)
    got = {key: right[key].astype(np.float32) for key in ("y", "dx", "dw", "db")}
    assert reference.error_over_bound(right, got) <= 1
    bound = right[f"{name}.bound"].flat[3]
    if spoil == "shape":
        got[name] = got[name][1:]
    else:
        got[name].flat[3] = np.nan if spoil == "nan" else right[name].flat[3] + 2 * bound
    assert not reference.error_over_bound(right, got) <= 1


def test_a_wrong_backend_fails():
    prepared = session.Prepared("digits.conv1", "numpy")
    right = session.expected_of("digits.conv1")
    prepared.require_right(right)
    with pytest.raises(AssertionError, match="wrong"):
        prepared.require_right({**right, "y": right["y"] + 1})


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["numpy", "torch-cpu"])
def test_a_wrong_backend_fails_its_own_figures_alone(wrong, monkeypatch):
    case, other = "digits.conv1", "numba"
    require_right = session.Prepared.require_right

    def spoilt(prepared, right):
        return require_right(prepared, right if prepared.name != wrong else spoil(right))

    def spoil(right):
        return {**right, "y": right["y"] + 1}

    monkeypatch.setattr(cases, "CASES", {case: cases.CASES[case]})
    monkeypatch.setattr(cases, "OURS", ("numpy", other))
    monkeypatch.setattr(session.Prepared, "require_right", spoilt)
    figures = pickle.loads(pickle.dumps(layers.measure()))
    for what in ("error", "memory", "forward", "backward"):
        assert isinstance(figures[what, case, "numpy"], Exception) == (
            wrong == "numpy" or what in ("forward", "backward")
        )
        assert isinstance(figures[what, case, other], Exception) == (
            wrong == "torch-cpu" and what in ("forward", "backward")
        )
    with pytest.raises(RuntimeError, match="AssertionError: wrong"):
        layers.Ratio().track_forward(figures, case, "numpy")


def test_a_skip_is_told_to_asv():
    figures = {("error", "case", "backend"): NotImplementedError("not here")}
    with pytest.raises(SkipNotImplemented, match="not here"):
        layers.Error().track_error(figures, "case", "backend")


def test_a_backend_that_a_commit_lacks_is_a_skip():
    with pytest.raises(NotImplementedError, match="no backend to-come at this commit"):
        cases.load("to-come")


def test_a_commit_without_backends_is_a_skip(monkeypatch):
    monkeypatch.delattr(cnnkernels, "registry")
    monkeypatch.delitem(sys.modules, "cnnkernels.registry")
    monkeypatch.setattr(cnnkernels, "__path__", [])
    with pytest.raises(NotImplementedError, match="no backend numpy at this commit"):
        cases.load("numpy")


@pytest.mark.parametrize(
    "broken",
    [
        ImportError("cannot import name 'im2col'"),
        ModuleNotFoundError("No module named 'cnnkernels.gone'", name="cnnkernels.gone"),
        ValueError("too few arguments"),
    ],
)
def test_a_broken_backend_is_no_skip(broken, monkeypatch):
    def load(_):
        raise broken

    monkeypatch.setattr(registry, "load", load)
    with pytest.raises(type(broken), match=str(broken)):
        cases.load("numpy")


def test_a_ratio_is_of_times_in_turns(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])

    def taking(name, seconds):
        def call():
            order.append(name)
            now[0] += seconds

        return call

    ratio = session.relative_seconds(taking("a", 0.006), taking("b", 0.003))
    assert ratio == pytest.approx(2.0)
    turns = [name for name, _ in itertools.groupby(order[2:])]
    assert turns == ["a", "b"] * session.ROUNDS + ["a"]


def test_a_slow_call_is_timed_in_fewer_rounds(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(session.time, "perf_counter", lambda: now[0])

    def slow():
        calls.append(1)
        now[0] += 1.0

    def quick():
        now[0] += 0.001

    assert session.relative_seconds(slow, quick) == pytest.approx(1000)
    assert len(calls) == 1 + 2


def test_every_backend_of_direct_sums_is_measured():
    # The suite's own reference is frozen, and holds every kernel to the error of direct sums.
    assert set(cases.BACKENDS) == {
        name
        for name in registry.names()
        if registry._entries()[name].value.startswith("cnnkernels.") and "winograd" not in name
    }
    assert set(digits.Training.params) == set(cases.BACKENDS) - {"naive"}  # which takes too long
