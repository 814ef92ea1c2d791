"""Tables of documents are made from committed rows, and nothing else in them is touched."""

import re
import sys
from pathlib import Path

import pytest

from cnnbench import results
from cnnbench.report import readme
from cnnbench.results import Row, Run

ROOT = Path(__file__).parents[3]

DOCUMENT = """\
# Title

<!-- table: results/here/run.json {kind} -->
what stood here before
<!-- end of table -->

Text with a | and a <!-- comment -->.

<!-- table: results/here/run.json check -->
<!-- end of table -->
"""


@pytest.fixture
def root(tmp_path):
    """A folder with a small saved run."""
    check = Row("net.a", "mb1ic1", "conv2d", "forward", "numpy", 2, "ok", "", 0.25)
    train = Row("digits", "digits CNN", "train", "train", "numpy", 2, "ok")
    train.seconds, train.samples = 2.0, [2.0] * 24
    train.details = {
        "loss": 0.0274,
        "train_accuracy": 0.998,
        "test_accuracy": 0.971,
        "steps": 220,
        "all_steps": 220,
        "seconds_per_step": 0.01,
        "epochs": [{}] * 10,
        "first_epoch_loss_difference": 1e-7,
        "loss_difference": 1e-2,
    }
    environment = {
        "cpu": "Some CPU",
        "cores": 2,
        "started": "2026-01-31T12:00:00+00:00",
        "aa_floor": {"2": 0.03},
    }
    path = tmp_path / "results" / "here" / "run.json"
    path.parent.mkdir(parents=True)
    Run(environment, [check, train], [path]).write()
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("check", "| net.a | ok 0.250 |"),
        ("train", "| numpy | 0.0274 | 0.998 | 0.971 | 2.00 s | 10.0 ms |"),
        ("answer", "> Train with numpy here: 2.00 s for 10 epochs on 2 threads"),
    ],
)
def test_a_table_is_written_between_its_comments_and_nowhere_else(root, kind, expected):
    document = DOCUMENT.format(kind=kind)
    made = readme.rendered(document, root)
    assert expected in made
    assert "what stood here before" not in made
    between = re.compile(r"(<!-- table: .*? -->\n).*?(<!-- end of table -->)", re.DOTALL)
    assert between.sub(r"\1\2", made) == between.sub(r"\1\2", document)
    assert readme.rendered(made, root) == made


def test_steps_are_those_of_a_saved_recommendation(root):
    path = root / "results" / "here" / "run.json"
    run = results.read(path)
    plan = {"fallback": "numpy", "threads": 2, "machine": {}, "versions": {}, "made": {}}
    run.environment["recommendation"] = {
        "name": "my:net", "kind": "network", "left": [], "baseline": "numpy", "barred": {},
        "overheads": {}, "options": {}, "follow": False, "stay": "numpy", "answer": "Stay.",
        "plan": plan, "layers": [],
    }  # fmt: skip
    step = Row("my:net", "", "step", "step", "numpy", 2, "ok", seconds=0.002, samples=[0.002] * 12)
    step.details = {"predicted_seconds": 0.0015}
    run.rows.append(step)
    run.write()
    made = readme.rendered(DOCUMENT.format(kind="steps"), root)
    assert "**Training steps of my:net, 2 threads**" in made
    assert "| numpy | 1.50 ms | 2.00 ms | - |" in made
    assert "> Stay.\n>\n> (Some CPU, 2 cores, 2026-01-31)" in made


def test_sums_leave_the_layers_trainings_and_higher_thread_counts_out(root):
    path = root / "results" / "here" / "run.json"
    run = results.read(path)
    for threads in (1, 2):
        whole = Row("net (sum)", "", "conv2d", "forward", "numpy", threads, "ok", "", 0.25)
        whole.seconds = 0.5 / threads
        run.rows.append(whole)
    run.write()
    made = readme.rendered(DOCUMENT.format(kind="sums"), root)
    between = made.split("sums -->")[1].split("<!-- end")[0]
    assert "**net (sum)  conv2d  1 thread**" in between
    assert "| numpy | 500 ms |" in between
    assert "2 threads" not in between
    assert "net.a" not in between
    assert "digits" not in between


def test_the_answer_names_the_machine_and_the_day(root):
    made = readme.rendered(DOCUMENT.format(kind="answer"), root)
    assert "(Some CPU, 2 cores, 2026-01-31)" in made
    assert "1 check passed" in made


def test_a_document_without_tables_is_left_as_it_is(root):
    assert readme.rendered("# Title\n\nText.\n", root) == "# Title\n\nText.\n"


def test_a_kind_that_is_not_known_and_a_file_that_is_not_there_are_refused(root):
    with pytest.raises(ValueError, match=r"expected 'train', .*, got 'nonsense'"):
        readme.rendered(DOCUMENT.format(kind="nonsense"), root)
    with pytest.raises(ValueError, match=r"run\.json has no training steps"):
        readme.rendered(DOCUMENT.format(kind="steps"), root)
    with pytest.raises(results.ResultsError, match="cannot be read"):
        readme.rendered(DOCUMENT.format(kind="check"), root / "elsewhere")


def test_the_command_writes_documents_in_place(root, monkeypatch):
    path = root / "README.md"
    path.write_text(DOCUMENT.format(kind="train"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["readme", str(path)])
    readme.main()
    assert path.read_text(encoding="utf-8") == readme.rendered(DOCUMENT.format(kind="train"), root)


def test_a_document_that_cannot_be_written_stays_whole_and_it_is_said(root, monkeypatch):
    path = root / "README.md"
    path.write_text(DOCUMENT.format(kind="train"), encoding="utf-8")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    monkeypatch.setattr(sys, "argv", ["readme", str(path)])
    with pytest.raises(SystemExit, match=r"README\.md: cannot be written: No space left"):
        readme.main()
    assert path.read_text(encoding="utf-8") == DOCUMENT.format(kind="train")


@pytest.mark.parametrize("name", ["docs/measuring.md", "docs/training.md"])
def test_the_tables_of_this_repository_are_those_of_its_committed_rows(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert readme.rendered(text, path.parent) == text
