"""All machines' newest times of networks in one table."""

from pathlib import Path

import pytest

from cnnbench.report import networks
from cnnbench.results import Run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, row_of):
    """A folder with a machine, to which a test adds runs."""

    def add(machine, day, ratios, command=("cnnbench", "time"), floor=0.02, **changes):
        rows = [
            row_of(
                name, 1 / ratio, case="resnet50 (sum)", problem="", ratio=ratio,
                samples=[1 / ratio] * 6, sides=1, processes=6, **changes,
            )
            for name, ratio in ratios.items()
        ]  # fmt: skip
        environment = {"started": f"2026-11-{day:02d}", "command": list(command), "aa_floor": {}}
        environment["aa_floor"] = {str(n): floor for n in (1, 2)}
        path = tmp_path / machine / f"time-{len(list(tmp_path.rglob('*.json')))}.json"
        path.parent.mkdir(exist_ok=True)
        Run(environment, rows, [path]).write()
        return tmp_path

    return add


def cells(folder):
    return {line[0]: line[1:] for line in networks.sheet(folder).rows}


def test_the_fastest_of_each_side_is_compared_on_every_machine(folder):
    folder("b", 1, {"numba-simd": 2.0, "numpy": 0.5, "torch-cpu": 1.0, "torch-cpu-nhwc": 1.6})
    made = folder("a", 1, {"numba-simd": 0.9, "torch-cpu": 1.0})
    sheet = networks.sheet(made)
    assert sheet.columns == ("all layers of", "a", "b")
    assert cells(made) == {
        "resnet50, convolution, forward": (
            "numba-simd 0.90x [0.90, 0.90] SLOWER",
            "numba-simd 1.25x [1.25, 1.25] FASTER",
        )
    }


def test_the_newest_run_counts_and_a_quick_one_is_marked(folder):
    folder("a", 2, {"numba-simd": 2.0, "torch-cpu": 1.0}, ("cnnbench", "time", "--quick"))
    made = folder("a", 1, {"numba-simd": 3.0, "torch-cpu": 1.0})
    assert cells(made)["resnet50, convolution, forward"] == ("numba-simd 2.00x [2.00, 2.00]*",)
    assert networks.sheet(made).notes == ("* a quick look, without a verdict",)


def test_a_later_run_on_more_threads_does_not_replace_one_on_fewer(folder):
    folder("a", 1, {"numba-simd": 3.0, "torch-cpu": 1.0})
    made = folder("a", 2, {"numba-simd": 2.0, "torch-cpu": 1.0}, threads=2)
    assert cells(made)["resnet50, convolution, forward"] == (
        "numba-simd 3.00x [3.00, 3.00] FASTER",
    )


def test_a_difference_without_a_verdict_is_not_claimed(folder):
    made = folder("a", 1, {"numba-simd": 1.15, "torch-cpu": 1.0}, floor=0.2)
    assert cells(made)["resnet50, convolution, forward"] == ("too close to call",)
    assert networks.sheet(made).notes == ("too close to call: no difference is certain",)


def test_a_network_that_only_one_side_has_is_left_out(folder):
    made = folder("a", 1, {"numba-simd": 2.0, "numpy": 1.0})
    assert cells(made) == {}


def test_every_committed_machine_is_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    for path in (ROOT / "results").iterdir():
        if path.is_dir() and path.name != "asv":
            assert f"| {path.name} |" in text
