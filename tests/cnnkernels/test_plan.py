"""Plans: choosing a backend for each problem, saving and loading, refusing other machines."""

import copy
import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest

import cnnkernels
from cnnkernels import functional, host, plan, registry
from cnnkernels.conformance import check
from cnnkernels.contract import Conv2D, MaxPool2D, Unsupported
from cnnkernels.plan import Choice, Plan, PlanError, PlanWarning

CONV = Conv2D(2, 3, 6, 6, 4, 3, padding=1)
STRIDED = Conv2D(2, 3, 6, 6, 4, 3, stride=2)
POOL = MaxPool2D(2, 4, 6, 6, 2)

MEASURED = Choice(
    "naive",
    "2.00x as fast as numpy",
    {"naive": 1.0, "numpy": 2.0},
    {"naive": [1.0, 1.0], "numpy": [2.0, 2.0]},
    "numpy",
    2.0,
    1.9,
    2.1,
)


NEGATIVE = {"problem": str(CONV), "backend": "numpy", "seconds": {"numpy": -1}}


@pytest.fixture
def made():
    return Plan({CONV: MEASURED, POOL: Choice("naive")}, fallback="numpy", threads=1)


@pytest.fixture
def nothing_in_force(monkeypatch):
    monkeypatch.delenv(plan.VARIABLE, raising=False)
    before = plan.use(None)
    yield
    plan.use(before)


def test_each_problem_runs_on_its_chosen_backend(made):
    assert made.backend_for(CONV).name == "naive"
    with pytest.warns(PlanWarning, match="no choice for g1mb2.*numpy computes it"):
        assert made.backend_for(STRIDED).name == "numpy"
    assert made.backend_for(STRIDED).name == "numpy"  # and says so once


def test_what_becomes_of_the_unmeasured_is_as_asked(made):
    made.unmeasured = "refuse"
    with pytest.raises(Unsupported, match=r"no choice for .*cnnbench recommend"):
        made.backend_for(STRIDED)
    made.unmeasured = "fall back"
    assert made.backend_for(STRIDED).name == "numpy"


def test_the_unmeasured_is_measured_once(made):
    asked = []

    def measure(problem):
        asked.append(problem)
        return Choice("naive", "measured now")

    made.unmeasured = measure
    with pytest.warns(PlanWarning, match="numpy computes it, unmeasured"):
        assert made.backend_for(STRIDED, measuring=False).name == "numpy"
    assert [made.backend_for(STRIDED).name, made.backend_for(STRIDED).name] == ["naive"] * 2
    assert made.choices[STRIDED].why == "measured now"
    assert asked == [STRIDED]
    made.choices.pop(STRIDED)
    made.unmeasured = lambda _: "naive"
    with pytest.raises(TypeError, match="expected the function to return a Choice, got 'naive'"):
        made.backend_for(STRIDED)


def test_a_fallback_is_no_choice(made, tmp_path):
    before = dict(made.choices)
    with pytest.warns(PlanWarning, match="no choice"):
        made.backend_for(STRIDED)
    made.unmeasured = "fall back"
    made.backend_for(dataclasses.replace(STRIDED, batch=3))
    assert made.choices == before
    made.save(tmp_path / "plan.json")
    with pytest.warns(PlanWarning, match="no choice"):
        plan.load(tmp_path / "plan.json").backend_for(STRIDED)


def test_a_plan_cannot_follow_a_plan(made, tmp_path):
    words = "kernels of its own, got 'auto'"
    with pytest.raises(PlanError, match=words):
        Plan({}, fallback="auto", threads=1)
    with pytest.raises(PlanError, match=words):
        Plan({CONV: Choice("auto")}, fallback="numpy", threads=1)
    with pytest.raises(PlanError, match=words):
        made.pinned("auto")
    made.save(tmp_path / "plan.json")
    plain = json.loads((tmp_path / "plan.json").read_text())
    for change in ({"fallback": "auto"}, {"choices": [{"problem": str(CONV), "backend": "auto"}]}):
        (tmp_path / "other.json").write_text(json.dumps(plain | change))
        with pytest.raises(PlanError, match=rf"other\.json: .*{words}"):
            plan.load(tmp_path / "other.json")
    made.unmeasured = lambda _: Choice("auto")
    with pytest.raises(PlanError, match=words):
        made.backend_for(STRIDED)


def test_a_plan_is_loaded_whole_or_says_who_cannot(made, monkeypatch):
    assert made.load() == ["naive", "numpy"]
    made.choices[MaxPool2D(1, 1, 4, 4, 3, stride=1, padding=2)] = Choice("torch-cpu")
    pytest.importorskip("torch")
    with pytest.raises(Unsupported, match=r"torch-cpu: mb1.*at most half the kernel"):
        made.load()
    load = registry.load

    def without_numba(name):
        if name == "numba":
            raise Unsupported("Numba is not installed here")
        return load(name)

    monkeypatch.setattr(registry, "load", without_numba)
    made.fallback = "numba"
    with pytest.raises(Unsupported, match="plan has chosen numba: Numba is not installed"):
        made.load()


def test_a_plan_is_copied_and_pickled(made):
    made.backend_for(CONV)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert other.backend_for(CONV).name == "naive"
        with pytest.warns(PlanWarning, match="no choice"):
            other.backend_for(STRIDED)
    made.machine = {**made.machine, "processor": "Z80"}
    with pytest.warns(PlanWarning, match=r"another machine \(processor 'Z80', here .*recommend"):
        pickle.loads(pickle.dumps(made))


def test_a_file_keeps_everything(made, tmp_path):
    made.made = {"when": "2026-01-01", "command": "cnnbench recommend digits"}
    made.save(tmp_path / "plan.json")
    assert plan.load(tmp_path / "plan.json") == made
    plain = json.loads((tmp_path / "plan.json").read_text())
    assert plain["schema"] == plan.SCHEMA
    assert plain["machine"] == host.fingerprint()


def test_another_machines_plan_is_refused(made, tmp_path):
    made.machine = {**made.machine, "processor": "Z80"}
    made.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"another machine \(processor 'Z80', here .*force"):
        plan.load(tmp_path / "plan.json")
    assert plan.load(tmp_path / "plan.json", force=True).choices == made.choices


def test_other_caches_are_another_machine_and_other_memory_is_not(made, tmp_path):
    made.machine = {**made.machine, "memory": "1 GiB"}
    made.save(tmp_path / "plan.json")
    assert plan.load(tmp_path / "plan.json") == made
    made.machine = {**made.machine, "caches": "L1d 1 KiB"}
    made.save(tmp_path / "plan.json")
    if host.caches():
        with pytest.raises(PlanError, match=r"another machine \(caches 'L1d 1 KiB', here"):
            plan.load(tmp_path / "plan.json")


def test_a_plan_of_another_microarchitecture_is_refused(made, tmp_path):
    made.machine = {**made.machine, "microarchitecture": "znver0"}
    made.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"another machine \(microarchitecture 'znver0', here"):
        plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize("key", ["microarchitecture", "caches", "memory"])
def test_a_plan_of_before_a_property_was_recorded_is_read(made, tmp_path, key):
    made.machine = {**made.machine, key: "any"}
    del made.machine[key]
    made.save(tmp_path / "plan.json")
    assert plan.load(tmp_path / "plan.json").choices == made.choices


def test_other_versions_are_said(made, tmp_path):
    made.versions = {**made.versions, "numpy": "0.1"}
    made.save(tmp_path / "plan.json")
    with pytest.warns(PlanWarning, match=r"measured with numpy 0\.1, here"):
        plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "cnnbench/1"}, "expected a plan with schema"),
        ({"choices": [{"problem": "nonsense", "backend": "numpy"}]}, "descriptor"),
        ({"choices": [{"problem": str(CONV), "backend": "nmpy"}]}, "did you mean 'numpy'"),
        ({"choices": [{"problem": str(CONV)}]}, "missing"),
        ({"choices": [{"problem": str(CONV), "backend": 7}]}, "malformed"),
        (
            {"choices": [{"problem": str(CONV), "backend": "numpy", "seconds": {"numpy": -1}}]},
            "zero",
        ),
        ({"fallback": "none such"}, "unknown backend"),
        ({"machine": 3}, "malformed"),
    ],
)
def test_what_is_no_plan_is_said(made, tmp_path, change, words):
    path = tmp_path / "plan.json"
    made.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PlanError, match=words) as raised:
        plan.load(path)
    assert str(path) in str(raised.value)


def test_files_that_cannot_be_read_or_written(made, tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        plan.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": ')
    with pytest.raises(PlanError, match="expected a plan in JSON"):
        plan.load(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PlanError, match="got 'list'"):
        plan.load(tmp_path / "list.json")
    with pytest.raises(PlanError, match="cannot be written"):
        made.save(tmp_path / "no" / "folder" / "plan.json")


def test_a_plan_goes_through_a_link_and_into_a_pipe(made, tmp_path, pipe):
    (tmp_path / "link.json").symlink_to("plan.json")
    (tmp_path / "plan.json").write_text("old")
    made.save(tmp_path / "link.json")
    assert plan.load(tmp_path / "plan.json") == made
    assert (tmp_path / "link.json").is_symlink()
    path, got = pipe
    made.save(path)
    assert got() == (tmp_path / "plan.json").read_bytes()
    assert path.is_fifo()


def test_pinning(made):
    pinned = made.pinned("numpy", CONV)
    assert (pinned.choices[CONV].backend, pinned.choices[POOL].backend) == ("numpy", "naive")
    assert pinned.choices[CONV].why == "pinned"
    assert pinned.choices[CONV].ratio == 1.0
    assert made.choices[CONV] is MEASURED
    everything = made.pinned("numpy")
    assert {choice.backend for choice in everything.choices.values()} == {"numpy"}
    with pytest.raises(ValueError, match="unknown backend"):
        made.pinned("nmpy")


def test_excluding(made):
    without = dataclasses.replace(made, choices={CONV: MEASURED}).excluding("naive")
    assert without.choices[CONV].backend == "numpy"
    assert without.choices[CONV].why == "naive is excluded"
    with pytest.raises(PlanError, match="no backend left for"):
        made.excluding("naive", "numpy")
    assert made.excluding("numpy").fallback == "naive"


# --------------------------------------------------------------------------------------------
# auto


def test_auto_is_conformant(backend):
    followed = Plan({}, fallback=backend.name, threads=1, unmeasured="fall back")
    before = plan.use(followed)
    try:
        for problem in (CONV, STRIDED, POOL):
            found = check(registry.load("auto"), problem)
            assert (found.outcome, found.reason) == ("ok", "")
    finally:
        plan.use(before)


@pytest.mark.usefixtures("nothing_in_force")
def test_auto_follows_the_plan_in_force(made):
    x, w = np.ones((2, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32)
    with pytest.raises(Unsupported, match="no plan is active"):
        functional.conv2d(x, w, padding=1, backend="auto")
    plan.use(made)
    with_bias = {"b": np.zeros(4, np.float32), "padding": 1}
    np.testing.assert_array_equal(
        cnnkernels.conv2d(x, w, **with_bias, backend="auto"),
        cnnkernels.conv2d(x, w, **with_bias, backend="naive"),
    )
    made.unmeasured = "refuse"
    with pytest.raises(Unsupported, match="no choice"):
        cnnkernels.conv2d(x, w, backend="auto")
    assert "auto" not in registry.names()


@pytest.mark.usefixtures("nothing_in_force")
def test_what_went_forward_goes_back_whatever_is_in_force():
    x = np.random.default_rng(3).standard_normal(POOL.shapes.x).astype(np.float32)
    dy = np.ones(POOL.shapes.y, np.float32)
    auto = registry.load("auto").pooling
    plan.use(Plan({POOL: Choice("numpy")}, "numpy", 1))
    _, cache = auto.forward(POOL, x)
    plan.use(Plan({POOL: Choice("naive")}, "naive", 1))
    right = cnnkernels.max_pool2d_backward(dy, x, 2, backend="naive")
    np.testing.assert_array_equal(auto.backward(POOL, dy, cache), right)


@pytest.mark.usefixtures("nothing_in_force")
def test_what_is_in_force_is_asked_for_with_it(made, tmp_path):
    plan.use(made, unmeasured="refuse")
    with pytest.raises(Unsupported, match="no choice"):
        plan.current().backend_for(STRIDED)
    assert made.unmeasured == "warn"
    assert plan.current().choices is made.choices
    made.machine = {**made.machine, "processor": "Z80"}
    made.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="another machine"):
        plan.use(tmp_path / "plan.json")
    assert plan.current().unmeasured == "refuse"
    plan.use(tmp_path / "plan.json", force=True, unmeasured="fall back")
    assert plan.current().backend_for(STRIDED).name == "numpy"


@pytest.mark.usefixtures("nothing_in_force")
def test_the_environment_names_a_plan(made, tmp_path, monkeypatch):
    made.save(tmp_path / "plan.json")
    monkeypatch.setenv(plan.VARIABLE, str(tmp_path / "plan.json"))
    assert plan.current() == made
    assert plan.current() is plan.current()
    other = Plan({}, "naive", 1)
    plan.use(other)
    assert plan.current() is other
    plan.use(tmp_path / "plan.json")
    assert plan.current() == made


def test_this_machine_has_a_fingerprint():
    here = host.fingerprint()
    assert here["processor"]
    assert int(here["cores"]) >= 1
    assert host.versions("numpy", "no such library") == {
        "python": host.versions()["python"],
        "numpy": np.__version__,
    }


def test_every_warning_of_plans_is_heard_and_others_are_shown(recwarn):
    heard = []
    with plan.hearing(heard.append):
        for _ in range(2):
            warnings.warn("a plan's", PlanWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
    assert heard == ["a plan's"] * 2
    assert [str(shown.message) for shown in recwarn] == ["another"]
