"""Lists of committed results by network and by kernel."""

from pathlib import Path

import pytest

from cnnbench.results import Run
from cnnbench.site import lists

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, row_of):
    """A folder with results of two machines."""

    def add(machine, name, rows, *options):
        about = {
            "machine": machine, "cpu": "A", "cores": 2, "system": "Linux", "aa_floor": {"1": 0.02},
            "started": name[-10:], "command": ["cnnbench", name.split("-")[0], *options],
        }  # fmt: skip
        path = tmp_path / "results" / machine / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        Run(about, rows, [path]).write()

    def sums(ratio, threads=1):
        return [
            row_of(name, case="resnet50 (sum)", problem="", ratio=ratio, threads=threads)
            for name, ratio in {"torch-cpu": 1.0, "numba-simd": ratio}.items()
        ]

    add("a", "time-resnet50-2026-11-01", sums(2.0))
    add("b", "time-resnet50-2026-11-02", sums(2.0), "--quick")
    add("a", "time-resnet50-2-threads-2026-11-03", sums(1.5, threads=2))
    steps = [row_of("the mix", case="m:net", op="step", direction="step")]
    add("a", "recommend-m-net-2026-11-03", steps)
    return tmp_path / "results"


@pytest.fixture
def written(folder):
    into = folder.parent / "docs" / "results"
    lists.write(lists.Committed(folder), into)
    return {path.stem: path.read_text("utf-8") for path in into.iterdir()}


def test_each_network_and_kernel_has_a_page(written):
    assert sorted(written) == [
        "kernel-numba-simd", "kernel-torch-cpu", "network-m-net", "network-resnet50",
    ]  # fmt: skip


def test_a_network_lists_its_runs_and_sums_on_every_machine(written):
    text = written["network-resnet50"]
    for machine, day in (("a", "01"), ("b", "02")):
        name = f"time-resnet50-2026-11-{day}"
        assert f'<a href="../../results/{machine}/{name}.html">{name}</a>' in text
        assert f"## All layers on {machine}" in text
    assert '<a href="../../results/side-by-side-resnet50.html">' in text
    for threads in (1, 2):
        assert f"{threads} thread" in text.partition("## All layers on a")[2]
    assert "recommend" not in text
    assert "recommend-m-net-2026-11-03" in written["network-m-net"]
    assert "side by side" not in written["network-m-net"]


def test_a_kernel_has_its_speed_in_each_network_and_says_which_was_a_quick_look(written):
    text = written["kernel-numba-simd"]
    cells = "1 | 2.00x [1.50, 2.25] FASTER | 2.00x [1.50, 2.25]* |"
    assert f"| resnet50, convolution, forward | {cells}" in text
    assert "| resnet50, convolution, forward | 2 | 1.50x [1.50, 2.25] FASTER | - |" in text
    assert "- * a quick look, without a verdict" in text
    assert "[How it works](../../kernels/cnnkernels/convolution/numba_simd/README.md)" in text
    assert "Speed relative to" not in written["kernel-torch-cpu"]


@pytest.mark.usefixtures("written")
def test_pages_of_earlier_results_are_removed(folder):
    for path in folder.glob("a/*.json"):
        path.unlink()
    into = folder.parent / "docs" / "results"
    lists.write(lists.Committed(folder), into)
    assert not (into / "network-m-net.md").exists()


def test_links_to_runs_lead_to_their_pages_and_others_stay():
    text = "[a-1](m/a-1.json) [b](m/b.csv) [c](../c.md)"
    assert lists.to_pages(text) == '<a href="m/a-1.html">a-1</a> [b](m/b.csv) [c](../c.md)'


def test_how_a_kernel_works_is_explained_where_the_page_links_to():
    for folder in lists._EXPLAINED.values():
        assert (ROOT / "kernels/cnnkernels/convolution" / folder / "README.md").is_file()
