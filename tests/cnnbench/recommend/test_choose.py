"""What is recommended follows from what was measured, from verdicts, and from what was asked."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnnbench import results
from cnnbench.budget import Budget
from cnnbench.digits.options import Options
from cnnbench.recommend import choose, in_steps, networks, recommendation, whole_steps
from cnnbench.recommend.choose import Wishes
from cnnbench.recommend.networks import Call, ModelError
from cnnbench.recommend.recommendation import AUTOCAST, CHANNELS_LAST, COMPILED, COMPILED_PLAN
from cnnbench.results import Row, Run
from cnnkernels.descriptor import parse
from cnnkernels.registry import AUTO

CONV, POOL = "mb2ic3ih6oc4oh6kh3ph1", "mb2ic4ih6oh3kh2sh2ph0"
NETWORK = networks.of_calls(
    "net", [Call("conv", CONV, dx=False, dw=True), Call("pool", POOL, dx=True, dw=False)]
)
FLOOR = 0.02
DETERMINISTIC = ("numba", "numba-simd")


def samples(seconds, noise=0.0):
    """Return 12 rounds' seconds: above and below in turns, by as much as the noise."""
    signs = np.resize([1, 1, -1, -1], 24)
    return list(seconds * (1 + noise * signs))


class World:
    """A machine on which everything takes as long as is said here.

    `layers` has the seconds of the convolution and of the pooling by backend, a forward and a
    backward together; `steps` those of whole steps; `errors` those in units of the bound.
    """

    def __init__(self):
        self.layers = {
            "torch-cpu": (4.0, 4.0), "torch-cpu-nhwc": (9.0, 9.0),
            "numba-simd": (2.0, 8.0), "numba": (6.0, 6.0),
        }  # fmt: skip
        self.steps = {"torch-cpu": 10.0, CHANNELS_LAST: 12.0, "numba-simd": 9.0, AUTO: 5.0}
        self.noise = {}
        self.floor = FLOOR
        self.errors = {}
        self.details = {}
        self.devices = {}
        self.candidates = self.measured = None

    def time(self, run, sets, backends, _, baseline, *__):
        self.candidates = list(backends)
        base = baseline if baseline in backends else backends[0]
        run.environment |= {"aa_floor": {"2": self.floor}, "baseline": {"2": base}}
        for backend in backends:
            for case, seconds in zip(sets[0].cases, self.layers[backend], strict=True):
                for direction in next(
                    la for la in NETWORK.layers if la.problem == case.problem
                ).directions:
                    row = Row(case.label, str(case), "op", direction, backend, 2, "ok")
                    row.error_over_bound = self.errors.get(backend, 0.1)
                    row.samples = samples(seconds / 2, self.noise.get((backend, case.label), 0.0))
                    row.seconds = seconds / 2
                    row.details = dict(self.details.get(backend, {}))
                    run.rows.append(row)

    def time_in_steps(self, run, network, pool, backends, baseline, *_, everything, **how):
        assert not everything
        assert set(backends) <= set(pool.present)
        self.asked = how
        self.time(run, [network.cases], backends, None, baseline)
        del run.environment["aa_floor"]
        return in_steps.Measured({"naive": 900.0}, {"torch-cpu": {"convolutions": 2.0}})

    def measure(self, found, *_, compiled):
        assert not compiled
        self.measured = found.plan
        for way, seconds in self.steps.items():
            if way == CHANNELS_LAST and found.kind != "model":
                continue
            row = Row("net", "", "step", "step", way, 2, "ok")
            row.samples, row.seconds = samples(seconds, self.noise.get(way, 0.0)), seconds
            found.steps.append(row)
        return self.floor


class WorkerPool:
    def __init__(self, backends, world):
        self.backends = self.present = backends
        self.absent, self._world = {}, world

    def close(self):
        pass

    def about(self, name):
        return {
            "device": self._world.devices.get(name, "cpu"),
            "deterministic": name in DETERMINISTIC,
        }


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(choose.speed, "time", made.time)
    monkeypatch.setattr(choose.in_steps, "time", made.time_in_steps)
    monkeypatch.setattr(whole_steps, "measure", made.measure)
    monkeypatch.setattr(
        choose,
        "WorkerPool",
        lambda names, *_, **__: contextlib.nullcontext(WorkerPool(names, made)),
    )
    monkeypatch.setattr(choose, "Ways", lambda *_: contextlib.nullcontext("ways"))
    return made


@pytest.fixture
def recommended(world):
    """Return a function that recommends for a PyTorch model; `trained` says for what else."""

    def recommend(trained=(2, 3, 6, 6), **wishes):
        run = Run({"command": ["cnnbench", "recommend"], "commit": "abc"})
        found = choose.recommend(
            run, NETWORK, trained, list(world.layers), 2, "torch-cpu", Wishes(**wishes),
            Budget(), None, Path(),
        )  # fmt: skip
        recommend.run = run
        return found

    return recommend


def chosen(found):
    """Name who computes the convolution, who the pooling, and who all else."""
    return (
        *(found.plan.choices[parse(text)].backend for text in (CONV, POOL)),
        found.plan.fallback,
    )


# --------------------------------------------------------------------------------------------
# layer by layer


def test_each_layer_has_its_fastest_and_the_interval_of_it(recommended):
    found = recommended()
    conv, pool = (decision.choice for decision in found.decisions)
    assert (conv.backend, conv.why, conv.ratio) == ("numba-simd", "faster", 2.0)
    assert (pool.backend, pool.why) == ("torch-cpu", "the fastest")
    assert (found.total("torch-cpu"), found.total("numba-simd"), found.total(AUTO)) == (8, 10, 6)


def test_a_hiccup_inside_steps_decides_nothing(world, recommended):
    timed = world.time

    def with_hiccup(run, *more):
        timed(run, *more)
        for row in run.rows:
            if row.backend == "numba-simd" and row.case == "conv":
                row.samples = [*row.samples[:11], 100 * row.samples[11]]

    world.time = with_hiccup
    (choice, _) = (decision.choice for decision in recommended().decisions)
    assert (choice.backend, choice.why) == ("numba-simd", "likely faster")
    assert choice.low < 1


def test_a_tie_stays_with_the_baseline(world, recommended):
    world.layers["numba-simd"] = (3.98, 8.0)
    world.noise["numba-simd", "conv"] = 0.1
    (choice, _) = (decision.choice for decision in recommended().decisions)
    assert (choice.backend, choice.why) == ("torch-cpu", "a tie")


def test_faster_by_less_than_the_floor_is_likely_alone(world, recommended):
    world.layers["numba-simd"] = (3.95, 8.0)
    (choice, _) = (decision.choice for decision in recommended().decisions)
    assert (choice.backend, choice.why) == ("numba-simd", "likely faster")


def test_layers_in_channels_last_are_for_whole_models_in_it(recommended):
    found = recommended()
    assert (found.total("torch-cpu-nhwc"), found.total(CHANNELS_LAST)) == (None, 18)
    assert "torch-cpu-nhwc" not in found.decisions[0].candidates


def test_what_was_measured_with_the_layers_is_kept(recommended):
    found = recommended()
    assert found.slow == {"naive": 900.0}
    assert found.parts == {"torch-cpu": {"convolutions": 2.0}}


def test_layers_have_verdicts_by_the_floor_of_whole_steps(world, recommended):
    recommended()
    row = next(r for r in recommended.run.rows if (r.backend, r.case) == ("numba-simd", "conv"))
    assert (row.verdict, row.ratio) == ("FASTER", 2.0)
    assert recommended.run.environment["aa_floor"] == {"2": world.floor}
    world.floor = 3.0
    recommended()
    row = next(r for r in recommended.run.rows if (r.backend, r.case) == ("numba-simd", "conv"))
    assert row.verdict == "UNCLEAR"


def test_no_backend_is_dropped_for_its_speed_that_a_person_may_need(world, recommended):
    recommended()
    assert world.asked == {"by_speed_alone": True, "wanted": set()}
    recommended(max_error=1.0, pins={"conv": "numba"})
    assert world.asked == {"by_speed_alone": False, "wanted": {"numba"}}


# --------------------------------------------------------------------------------------------
# whole steps decide


def test_a_mix_that_is_certainly_faster_is_to_be_trained_with(recommended):
    found = recommended()
    assert found.follow
    assert chosen(found) == ("numba-simd", "torch-cpu", "torch-cpu")
    assert found.answer == (
        "Train net with a mix, numba-simd for 1, torch-cpu for 1 problems: 5.00 s a step, "
        "2.00x [2.00, 2.00] as fast as torch-cpu."
    )


def test_of_ways_that_cannot_be_told_apart_the_faster_is_taken(world, recommended):
    world.steps |= {"numba-simd": 5.02, AUTO: 5.0}
    world.noise[AUTO] = 0.05
    found = recommended()
    assert chosen(found) == ("numba-simd", "torch-cpu", "torch-cpu")
    assert "no certain difference from numba-simd (5.02 s)" in found.answer
    world.steps |= {"numba-simd": 5.0, AUTO: 5.02}
    assert chosen(recommended()) == ("numba-simd",) * 3


def test_a_compiled_model_needs_no_conversion(world, recommended):
    world.steps |= {COMPILED: 5.02, AUTO: 5.0}
    world.noise[AUTO] = 0.05
    found = recommended()
    assert (found.follow, found.stay) == (False, COMPILED)
    assert found.answer.startswith("Train net with torch.compile: 5.02 s a step")
    world.steps[COMPILED] = 6.0
    assert recommended().follow


def test_a_plan_may_be_followed_by_a_compiled_model(world, recommended):
    assert (recommended().compiled, recommended().way) == (False, AUTO)
    world.steps[COMPILED_PLAN] = 4.0
    found = recommended()
    assert (found.follow, found.compiled, found.way) == (True, True, COMPILED_PLAN)
    assert "problems, under torch.compile: 4.00 s a step" in found.answer


def test_bfloat16_is_shown_and_not_chosen_unless_its_error_is_allowed(world, recommended):
    world.steps[AUTOCAST] = 1.0
    found = recommended()
    assert found.plan.choices[parse(CONV)].backend == "numba-simd"
    assert "65536 times as coarsely" in found.why_not(AUTOCAST)
    found = recommended(max_error=65536)
    assert (found.follow, found.stay) == (False, AUTOCAST)


def test_noise_does_not_decide_for_a_change(world, recommended):
    world.steps |= {"numba-simd": 9.9, AUTO: 9.8}
    world.noise |= {"numba-simd": 0.1, AUTO: 0.1}
    found = recommended()
    assert not found.follow
    assert found.stay == "torch-cpu"
    assert chosen(found) == ("torch-cpu",) * 3
    assert re.match(
        r"Stay with torch-cpu for net: 10\.0 s a step; the mix, the next, is not certainly 1 % "
        r"faster: 1\.0\dx \[.*\] as fast\.$",
        found.answer,
    )


def test_the_rival_is_the_better_of_pytorchs_layouts(world, recommended):
    world.steps[CHANNELS_LAST] = 4.0
    found = recommended()
    assert found.stay == CHANNELS_LAST
    assert found.answer.startswith(f"Stay with {CHANNELS_LAST} for net: 4.00 s a step; the mix")
    assert "slower: 0.80x" in found.answer
    assert chosen(found) == ("torch-cpu",) * 3


def test_a_tie_of_layouts_is_named_and_changes_nothing(world, recommended):
    world.steps |= {CHANNELS_LAST: 9.95, "numba-simd": 20.0, AUTO: 20.0}
    world.noise[CHANNELS_LAST] = 0.1
    found = recommended()
    assert found.stay == "torch-cpu"
    assert f"no certain difference from {CHANNELS_LAST} (9.95 s)" in found.answer


def test_a_layout_that_another_way_certainly_beats_is_not_kept(world, recommended):
    world.steps |= {CHANNELS_LAST: 9.0, "numba-simd": 8.6, AUTO: 8.5}
    world.noise[CHANNELS_LAST] = 0.2
    found = recommended()
    assert found.stay == CHANNELS_LAST
    assert "no certain difference from torch-cpu (10.0 s)" in found.answer
    assert "the mix, the next, is not certainly 1 % faster: 1.0" in found.answer


def test_a_network_of_the_suites_own_is_judged_in_the_same_way(world, recommended):
    world.steps = {"torch-cpu": 10.0, "numba-simd": 5.0, "numba": 5.01, AUTO: 5.0}
    world.noise["numba"] = 0.05
    found = recommended(Options())
    assert found.kind == "network"
    assert chosen(found) == ("numba-simd",) * 3
    assert "no certain difference from the mix (5.00 s) and numba (5.01 s)" in found.answer
    world.steps = {"torch-cpu": 5.0, "numba-simd": 10.0, AUTO: 10.0}
    found = recommended(Options())
    assert found.stay == "torch-cpu"
    assert chosen(found) == ("torch-cpu",) * 3  # what has no choice as well


def test_layers_alone_give_a_plan_and_no_step(recommended):
    found = recommended(None)
    assert (found.kind, found.steps) == ("layers", [])
    assert "6.00 s a step, 8.00 s with torch-cpu; no whole step was measured" in found.answer


def test_layers_alone_that_nobody_does_faster(world, recommended):
    world.layers["numba-simd"] = (8.0, 8.0)
    found = recommended(None)
    assert not found.follow
    assert chosen(found) == ("torch-cpu",) * 3
    assert found.answer == "For net stay with torch-cpu: no other backend is faster on any layer."


def test_a_way_that_failed_is_not_taken(world, recommended, monkeypatch):
    def measure(found, *more, compiled):
        floor = world.measure(found, *more, compiled=compiled)
        for row in found.steps:
            if row.backend in ("torch-cpu", AUTO):
                row.withdraw("failed", "the worker was killed")
        return floor

    monkeypatch.setattr(whole_steps, "measure", measure)
    assert recommended().answer.startswith("Train net with numba-simd")
    world.steps = {"torch-cpu": 1.0}
    found = recommended()
    assert not found.follow
    assert found.answer.endswith("could be measured: torch-cpu: the worker was killed.")


# --------------------------------------------------------------------------------------------
# what was asked


def test_who_is_excluded_is_neither_the_answer_nor_the_fallback(world, recommended):
    world.steps |= {"torch-cpu": 1.0, CHANNELS_LAST: 1.0}
    found = recommended(excluded=("torch-cpu",))
    assert "torch-cpu" not in world.candidates
    assert chosen(found) == ("numba-simd", "numba", "numba-simd")
    assert found.follow
    assert found.answer.endswith(
        "as fast as torch-cpu, which is not to be chosen (it is excluded): slower, as asked for."
    )
    assert world.measured.fallback == "numba-simd"


def test_only_who_promises_the_same_bits_is_deterministic(world, recommended):
    world.steps |= {"torch-cpu": 1.0, CHANNELS_LAST: 1.0}
    found = recommended(deterministic=True)
    assert world.candidates == ["numba-simd", "numba"]
    assert set(chosen(found)) <= set(DETERMINISTIC)
    assert "(it does not promise the same bits on every run)" in found.answer
    assert found.barred["torch-cpu-nhwc"] == "it does not promise the same bits on every run"


def test_an_error_above_the_bound_bars_a_backend(world, recommended):
    world.errors["torch-cpu"] = 0.5
    world.steps |= {"torch-cpu": 1.0, CHANNELS_LAST: 1.0}
    found = recommended(max_error=0.3)
    assert "torch-cpu" not in chosen(found)
    assert "largest rounding error possible in direct sums, above 0.3)" in found.answer


@pytest.mark.parametrize(
    ("max_error", "winner"), [(None, "numba"), (50, "numba"), (1, "numba-simd")]
)
def test_an_algorithm_is_barred_by_the_error_that_it_can_have(
    world, recommended, max_error, winner
):
    world.layers["numba"] = (1.0, 9.0)
    world.details["numba"] = {"algorithm": "F(4x4, 3x3)", "worst_bound_ratio": 40.0}
    found = recommended(max_error=max_error)
    assert chosen(found)[0] == winner
    if winner != "numba":
        assert found.decisions[0].refused["numba"] == (
            "F(4x4, 3x3) can have an error 40 times as large as direct sums can, above 1"
        )


def test_a_kernel_is_chosen_under_its_own_backends_name(world, recommended):
    del world.layers["numba"]
    world.layers = {"numba": world.layers["numba-simd"], **world.layers}
    world.details["numba"] = {"owner": "numba-simd"}
    found = recommended()
    assert chosen(found)[0] == "numba-simd"
    assert found.total("numba") == found.total("numba-simd")


def test_a_layout_that_is_excluded_is_not_stayed_with(world, recommended):
    world.steps |= {CHANNELS_LAST: 1.0, "numba-simd": 20.0, AUTO: 20.0}
    found = recommended(excluded=("torch-cpu-nhwc",))
    assert found.stay == "torch-cpu"


def test_backends_elsewhere_than_on_the_cpu_are_left_out(world, recommended):
    world.layers["torch-cuda"] = (0.1, 0.1)
    world.devices["torch-cuda"] = "cuda"
    found = recommended()
    assert "torch-cuda" not in world.candidates
    assert found.barred["torch-cuda"].startswith("it runs on cuda")
    assert "torch-cuda" not in chosen(found)


def test_a_pin_is_kept_in_the_plan_and_in_the_answer(world, recommended):
    world.steps |= {"torch-cpu": 1.0, CHANNELS_LAST: 1.0, "numba-simd": 3.0, AUTO: 4.0}
    found = recommended(pins={"pool": "numba"})
    assert chosen(found) == ("numba-simd", "numba", "numba-simd")
    assert "numba for 1 problems (1 pinned)" in found.answer
    assert "torch-cpu, which is not to be chosen (pool is pinned to numba)" in found.answer
    assert found.total("numba-simd") == 2 + 6


def test_a_pin_to_pytorch_lets_it_be_the_answer(world, recommended):
    world.steps |= {"torch-cpu": 1.0}
    found = recommended(pins={"c*": "torch-cpu"})
    assert found.stay == "torch-cpu"
    assert found.plan.choices[parse(CONV)].why == "pinned"


def test_a_pinned_layer_bars_single_backends_of_own_networks(world, recommended):
    world.steps = {"torch-cpu": 1.0, "numba-simd": 1.0, AUTO: 4.0}
    found = recommended(Options(), pins={"pool": "numba"})
    assert chosen(found)[:2] == ("numba-simd", "numba")
    assert found.follow


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"pins": {"norm": "numba"}}, r"--pin norm=numba: no such layer; there are conv, pool"),
        ({"pins": {"conv": "numpy"}}, r"--pin conv=numpy: conv: it was not measured"),
        (
            {"pins": {"conv": "numba"}, "excluded": ("numba",)},
            r"--pin conv=numba: conv: it is excluded",
        ),
        ({"max_error": 0.0}, r"no backend is left for net: its error is 0\.100 times the largest"),
        (
            {"excluded": DETERMINISTIC, "deterministic": True},
            r"no backend is left to choose from: torch-cpu: it does not promise",
        ),
    ],
)
def test_wishes_that_nobody_fulfils_are_said(recommended, wishes, words):
    with pytest.raises(ModelError, match=words):
        recommended(**wishes)


# --------------------------------------------------------------------------------------------
# kept


def test_a_saved_run_has_all_of_it(recommended, tmp_path):
    found = recommended(pins={"pool": "numba"})
    run = recommended.run
    run.paths = [tmp_path / "run.json"]
    run.write()
    assert recommendation.kept(results.read(tmp_path / "run.json")) == found


def test_a_run_without_one_or_with_another_is_said(recommended, tmp_path):
    assert recommendation.kept(Run({})) is None
    recommended()
    text = json.dumps(recommended.run.environment["recommendation"])
    broken = Run(
        {"recommendation": json.loads(text.replace('"names"', '"name"'))}, paths=[tmp_path]
    )
    with pytest.raises(results.ResultsError, match="expected a recommendation"):
        recommendation.kept(broken)
