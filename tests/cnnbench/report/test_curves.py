"""Curves of trainings, drawn from what the example wrote."""

import xml.etree.ElementTree as ElementTree

import pytest

from cnnbench.report import curves

SVG = "{http://www.w3.org/2000/svg}"

CSV = """network,epoch,seconds,loss,test_accuracy
PyTorch,1,10.0,2.1,0.3
PyTorch,2,20.0,0.9,0.8
a <plan>,1,5.0,2.1,0.3
a <plan>,2,10.0,0.9,0.9
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "some-machine" / "training-2026-01-31.csv"
    path.parent.mkdir()
    path.write_text(CSV)
    return path


def test_every_point_is_drawn_where_it_belongs(written):
    root = ElementTree.fromstring(curves.figure(curves.read(written), "some machine"))
    plain, converted = (line.get("points") for line in root.iter(f"{SVG}polyline"))
    places = [
        [tuple(map(float, p.split(","))) for p in text.split()] for text in (plain, converted)
    ]
    (one, end), (half, middle) = places
    assert end[0] - curves._LEFT == pytest.approx(2 * (one[0] - curves._LEFT))
    assert middle[0] == one[0]
    assert one[1] == half[1]
    assert middle[1] < end[1] < one[1]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"PyTorch", "a <plan>", "some machine"} <= set(texts)
    assert texts[0] == "2 epochs: PyTorch 20.0 s, 80 %; a <plan> 10.0 s, 90 %"


@pytest.mark.parametrize(
    ("most", "step", "last"), [(20, 2.5, 20), (7.9, 1, 7), (231, 50, 200), (8, 1, 8), (90, 20, 80)]
)
def test_ticks_are_few_and_round(most, step, last):
    ticks = curves._ticks(most)
    assert (ticks[0], ticks[1], ticks[-1]) == (0, step, last)
    assert len(ticks) <= 9


def test_the_command_writes_the_figure(written, tmp_path, monkeypatch):
    path = tmp_path / "curves.svg"
    monkeypatch.setattr("sys.argv", ["curves", str(written), str(path)])
    curves.main()
    assert "some-machine, 2026-01-31" in path.read_text()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", CSV.replace("20.0", "long")])
def test_another_file_is_refused_in_a_sentence(written, monkeypatch, text):
    written.write_text(text)
    monkeypatch.setattr("sys.argv", ["curves", str(written), "never.svg"])
    with pytest.raises(SystemExit, match=r"curves: .*expected what train_resnet.py --csv wrote"):
        curves.main()
