"""Saved runs as tidy tables, read back by others."""

import csv
import io
import json
from pathlib import Path

import pytest

from cnnbench import cli, results
from cnnbench.report import tidy
from cnnbench.results import Run

ROOT = Path(__file__).parents[3]
SAVED = sorted(p for p in ROOT.glob("results/*/*.json") if p.parent.name != "asv")


@pytest.fixture
def run(row_of):
    environment = {"machine": "m", "cpu": "A, B", "cores": 2, "aa_floor": {"1": 0.02}}
    rows = [
        row_of("numpy", 1.5e-3, samples=[1.5e-3] * 16, sides=8, processes=2),
        row_of("naive", None, samples=[], outcome="wrong", reason='y is "1", not 2', ratio=None),
    ]
    rows[0].details["cold_seconds"] = 2e-3
    return Run(environment, rows)


def test_a_row_is_a_measurement_with_units_in_the_names(run):
    first, second = tidy.records([run])
    assert list(first) == list(tidy.COLUMNS)
    assert first["time_s"] == 1.5e-3
    assert first["cold_time_s"] == 2e-3
    assert (first["blocks"], first["processes"]) == (2, 2)
    assert (first["processor"], first["cores"], first["aa_floor"]) == ("A, B", 2, 0.02)
    assert second["time_s"] is second["ratio"] is None
    assert (second["outcome"], second["reason"]) == ("wrong", 'y is "1", not 2')


def test_comma_separated_values_come_back_whatever_a_text_contains(run):
    rows = list(csv.DictReader(io.StringIO(tidy.as_csv(tidy.records([run])))))
    assert [row["processor"] for row in rows] == ["A, B", "A, B"]
    assert rows[1]["reason"] == 'y is "1", not 2'
    assert float(rows[0]["time_s"]) == 1.5e-3
    assert rows[1]["time_s"] == ""


def test_json_comes_back_as_it_was(run):
    records = tidy.records([run])
    assert json.loads(tidy.as_json(records)) == records
    assert json.loads(tidy.as_json([])) == []


@pytest.mark.parametrize("path", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_saved_run_can_be_read_as_a_table(path):
    run = results.read(path)
    records = json.loads(tidy.as_json(tidy.records([run])))
    assert len(records) == len(run.rows)
    assert all(len(row) == len(tidy.COLUMNS) for row in records)


def test_pandas_reads_it_as_it_is(run):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_csv(io.StringIO(tidy.as_csv(tidy.records([run]))))
    assert frame["time_s"].dtype == float
    assert frame.groupby("outcome")["backend"].first().to_dict() == {
        "ok": "numpy",
        "wrong": "naive",
    }


def test_the_documents_explain_every_column():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name, meaning in tidy.COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in text


def shown(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["cnnbench", "show", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    return end.value.code, told.out, " ".join(told.err.split())


def saved(run, folder):
    path = folder / "run.json"
    run.paths = [path]
    run.write()
    return path


def test_columns_are_selected_in_the_order_given(run, tmp_path, monkeypatch, capsys):
    path = saved(run, tmp_path)
    code, out, _ = shown(
        capsys, monkeypatch, path, "--format", "csv", "--select", "ratio,case,backend"
    )
    assert code == 0
    assert out.splitlines()[:2] == ["ratio,case,backend", "2.0,digits.conv1,numpy"]


def test_markdown_has_a_line_a_measurement(run, tmp_path, monkeypatch, capsys):
    code, out, _ = shown(
        capsys,
        monkeypatch,
        saved(run, tmp_path),
        "--format",
        "markdown",
        "--select",
        "backend,ratio",
    )
    assert code == 0
    assert "| numpy | 2 |" in out
    assert "| naive |  |" in out


def test_an_unknown_column_is_one_sentence(run, tmp_path, monkeypatch, capsys):
    code, _, err = shown(capsys, monkeypatch, saved(run, tmp_path), "--select", "case,rato")
    assert code == 2
    assert "--select: 'rato' is no column (did you mean 'ratio'?); the columns are machine," in err
