"""Command lines of sweeps that cannot be run."""

import pytest

pytest.importorskip("distributed", reason="Dask is not installed")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare"], "expected check, time, train, recommend; got 'compare'"),
        (["--split", "train"], "--split is for check and time: train compares everything"),
        (["time", "--cases", "digit"], "did you mean 'digits'?"),
        (["time", "--json", "x.json"], "--json is not for a sweep: its folder has all rows"),
        ([], "expected a command: check, time, train or recommend"),
        (["--resume", "nowhere"], "--resume: expected the folder of a sweep"),
        (["--resume", "nowhere", "time"], "--resume takes the command and --split from its folder"),
    ],
)
@pytest.mark.usefixtures("nothing_measured")
def test_bad_input_is_one_sentence_before_anything_starts(command, arguments, told):
    code, _, said = command("sweep", "--on", "local:2", *arguments)
    assert code == 2
    assert told in " ".join(said.split())
    assert "Traceback" not in said
