"""asv's own page, of the committed history."""

import json
from pathlib import Path

import pytest

from cnnbench.history import asv, series

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_asv_publishes_the_committed_history(tmp_path):
    path = asv.derived(ROOT, tmp_path, branches=["HEAD"], html_dir="html")
    log = tmp_path / "asv.log"
    assert asv.call(path, "publish", "--no-pull", log=log) == 0, log.read_text()
    index = json.loads((tmp_path / "html" / "index.json").read_text())
    history = series.read(ROOT)
    assert set(index["revision_to_hash"].values()) == {one.hash for one in history.commits}
    assert {one.benchmark for one in history.series} <= set(index["benchmarks"])
    for benchmark in {one.benchmark for one in history.series}:
        assert list((tmp_path / "html" / "graphs").rglob(f"{benchmark}.json"))
