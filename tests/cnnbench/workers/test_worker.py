"""A backend in a process of its own: it answers, or the reason why not is known."""

import os
import re

import pytest

from cnnbench.workers.worker import Worker, WorkerError, WorkerUnsupportedError
from cnnkernels import conformance, plan, registry
from cnnkernels.contract import directions
from cnnkernels.descriptor import parse

CONV = "mb2ic3ih6oc4oh6kh3ph1"
POOL = "mb2ic3ih6oh3kh2sh2ph0"
HUGE = "mb64ic512ih28oc512oh28kh3ph1"
HUGE_POOL = "mb64ic512ih112oh112kh3ph1"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strangers")]


@pytest.fixture(scope="module")
def numpy_worker():
    with Worker("numpy", 1) as worker:
        yield worker


def finds(worker, descriptor, folder=None, budget=None):
    return worker.ask("check", descriptor=descriptor, folder=folder, budget=budget)


# --------------------------------------------------------------------------------------------
# what it answers


@pytest.mark.parametrize("backend", ["numpy", "numba", "naive"])
def test_a_worker_checks_and_times_every_direction_of_a_problem(backend, tmp_path):
    with Worker(backend, 1) as worker:
        assert worker.about["backend"] == backend
        assert (worker.about["layout"], worker.about["device"]) == ("NCHW", "cpu")
        for descriptor in (CONV, POOL):
            found = finds(worker, descriptor, str(tmp_path))
            assert (found["outcome"], found["reason"]) == ("ok", "")
            worker.ask("prepare", descriptor=descriptor, folder=str(tmp_path))
            problem = parse(descriptor)
            assert set(found["error_over_bound"]) == set(directions(problem))
            for direction in directions(problem):
                first = worker.ask("first_call", descriptor=descriptor, direction=direction)
                probed = worker.ask("probe", direction=direction, nchw=False)
                converting = worker.ask("probe", direction=direction, nchw=True)
                side = worker.ask(
                    "side", direction=direction, nchw=True, calls=2, parts=3, warm=True
                )
                times = (first, probed["seconds"], converting["seconds"], side["seconds"])
                assert min(*times, side["canary"]) > 0
                assert 0 <= side["lost"] <= 1
                assert probed["extra_bytes"] is None or probed["extra_bytes"] >= 0
            worker.ask("release")


def test_a_check_in_a_worker_is_the_check_in_this_process(numpy_worker):
    found = finds(numpy_worker, CONV)
    here = conformance.check(registry.load("numpy"), parse(CONV))
    assert found["problem"] == here.problem
    assert found["error_over_bound"] == here.error_over_bound


def test_a_first_call_needs_no_preparation(numpy_worker):
    for descriptor in (CONV, POOL):
        for direction in ("backward", "forward"):
            assert numpy_worker.ask("first_call", descriptor=descriptor, direction=direction) > 0


def test_a_worker_takes_steps_over_full_batches(numpy_worker):
    assert numpy_worker.ask("start_network", batch_size=8) > 0
    assert numpy_worker.ask("steps", steps=3) > 0


def test_what_a_plan_warns_of_in_a_worker_is_warned_of_here(tmp_path):
    path = tmp_path / "plan.json"
    made = plan.Plan({parse(CONV): plan.Choice("numpy")}, "numpy", 1, versions={"numpy": "0.1"})
    made.save(path)
    with pytest.warns(
        plan.PlanWarning, match=r"auto: .*plan\.json: measured with numpy 0\.1, here"
    ):
        worker = Worker("auto", 1, {plan.VARIABLE: str(path)})
    with worker:
        assert finds(worker, CONV)["outcome"] == "ok"
        with pytest.warns(plan.PlanWarning, match=r"auto: the plan has no choice for .*: numpy"):
            finds(worker, POOL)


def test_a_worker_trains(numpy_worker):
    done = numpy_worker.ask("train", epochs=1, most_steps=2)
    assert done["steps"] == len(done["step_losses"]) == 2
    assert done["epochs"] == []


def test_a_program_trains_and_declines_what_takes_kernels():
    pytest.importorskip("numba")
    with Worker("numba (compiled run)", 1) as worker:
        assert worker.about["kernels"] is False
        with pytest.raises(
            WorkerUnsupportedError, match=r"^numba \(compiled run\) is a whole program"
        ):
            finds(worker, CONV)
        done = worker.ask("train", epochs=1, most_steps=2)
        assert done["steps"] == len(done["step_losses"]) == 2


def test_torch_compile_without_a_compiler_is_unsupported(tmp_path):
    pytest.importorskip("torch")
    missing = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    with (
        Worker("torch.compile", 1, missing) as worker,
        pytest.raises(
            WorkerUnsupportedError, match=r"^torch\.compile finds no C\+\+ compiler here"
        ),
    ):
        worker.ask("train", epochs=1, most_steps=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_and_reported(threads):
    with Worker("numba", threads) as worker:
        assert worker.about["threads"] == {"numba": threads}


def test_thread_pools_are_reported_once_something_was_computed(numpy_worker):
    finds(numpy_worker, CONV)
    told = numpy_worker.ask("threading")
    assert {pool["num_threads"] for pool in told["pools"]} <= {1}
    assert told["numba_threading_layer"] is None


@pytest.mark.parametrize("backend", ["numba", "torch-cpu"])
def test_no_pool_of_a_worker_has_more_threads_than_it_was_given(backend):
    try:
        worker = Worker(backend, 1)
    except WorkerUnsupportedError as reason:
        pytest.skip(str(reason))
    with worker:
        assert finds(worker, CONV)["outcome"] == "ok"
        told = worker.ask("threading")
        assert {pool["num_threads"] for pool in told["pools"]} <= {1}
        assert (told["numba_threading_layer"] is None) == (backend != "numba")


# --------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("backend", "error", "message"),
    [
        ("declines", WorkerUnsupportedError, "^no such chip here$"),
        ("unloadable", WorkerError, "'unloadable' of .* failed to load: KeyError: 'secret'"),
        ("nobody", WorkerError, "unknown backend 'nobody'"),
    ],
)
def test_a_backend_that_cannot_be_loaded_says_why(backend, error, message):
    with pytest.raises(WorkerError, match=message) as raised:
        Worker(backend, 1)
    assert raised.type is error


def test_a_problem_that_the_backend_refuses_is_unsupported():
    with Worker("refuses", 1) as worker:
        found = finds(worker, CONV)
        assert (found["outcome"], found["reason"]) == ("unsupported", "pools only")
        assert finds(worker, POOL)["outcome"] == "ok"


@pytest.mark.parametrize("descriptor", [HUGE, HUGE_POOL])
def test_a_problem_beyond_the_budget_is_unsupported_with_the_time_it_would_take(descriptor):
    with Worker("naive", 1) as worker:
        found = finds(worker, descriptor, budget=0.5)
        assert found["outcome"] == "unsupported"
        assert re.fullmatch(r"too slow \(about [\d.]+ (s|min|h)\)", found["reason"])
        assert finds(worker, CONV, budget=60.0)["outcome"] == "ok"


def test_what_compiling_takes_is_not_taken_for_the_time_of_a_call():
    with Worker("compiles", 1) as worker:
        assert finds(worker, "mb1ic16ih28oc16oh28kh3ph1", budget=20.0)["outcome"] == "ok"


def test_a_command_that_raises_is_an_error_and_the_worker_goes_on(numpy_worker):
    with pytest.raises(WorkerError, match="DescriptorError: descriptor: 'kh' is missing"):
        finds(numpy_worker, "mb2ic3ih6oc4")
    with pytest.raises(WorkerError, match="TypeError"):
        numpy_worker.ask("check", nonsense=1)
    assert finds(numpy_worker, CONV)["outcome"] == "ok"


# --------------------------------------------------------------------------------------------
# what goes wrong


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("killed", "^the worker was killed by SIGKILL"),
        ("exits", "^the worker ended with exit code 3: no licence$"),
    ],
)
def test_a_worker_that_dies_says_of_what(backend, message):
    with Worker(backend, 1) as worker:
        assert finds(worker, POOL)["outcome"] == "ok"
        for _ in range(2):  # the second time it is dead already
            with pytest.raises(WorkerError, match=message):
                finds(worker, CONV)
        assert not worker.alive


def test_a_worker_that_does_not_answer_in_time_is_stopped(monkeypatch):
    with Worker("sleeps", 1) as worker:
        monkeypatch.setattr(worker, "_timeout", 0.2)  # what is left of it after loading
        with pytest.raises(WorkerError, match=r"^no answer within .* s; stopped$"):
            finds(worker, CONV.replace("mb2", "mb5"))
        assert not worker.alive
        with pytest.raises(WorkerError):
            finds(worker, CONV)


def test_what_a_library_prints_is_no_answer():
    with Worker("prints", 1) as worker:
        assert worker.about["backend"] == "prints"
        assert finds(worker, CONV)["outcome"] == "ok"
        assert finds(worker, POOL)["outcome"] == "ok"


def test_a_closed_worker_leaves_no_process():
    worker = Worker("numpy", 1)
    worker.close()
    worker.close()
    assert not worker.alive
    with pytest.raises(ChildProcessError):
        os.waitpid(worker._child._process.pid, os.WNOHANG)
