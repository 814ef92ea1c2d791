"""The notebook's two trainings print the notebook's two tables, digit for digit."""

import os
import re
import subprocess
import sys

import pytest

from cnnbench.digits.recipes import RECIPES

PRINTED = {
    # epoch: mean loss, accuracy on training and on test images
    "notebook-numpy": """
        01 2.0222 0.552 0.562
        02 0.7954 0.880 0.864
        03 0.2587 0.800 0.769
        04 0.3640 0.950 0.949
        05 0.1249 0.977 0.956
        06 0.0924 0.973 0.951
        07 0.0610 0.991 0.973
        08 0.0353 0.989 0.960
        09 0.0345 0.997 0.971
        10 0.0274 0.998 0.971
    """,
    "notebook-torch": """
        01 2.1325 0.309 0.280
        02 1.6937 0.765 0.751
        03 1.3111 0.841 0.813
        04 1.0346 0.906 0.873
        05 0.8131 0.927 0.884
        06 0.6370 0.944 0.911
        07 0.5183 0.952 0.929
        08 0.4214 0.958 0.936
        09 0.3520 0.964 0.940
        10 0.2969 0.971 0.944
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PRINTED)
def test_a_recipe_prints_the_notebooks_table_digit_for_digit(recipe, tmp_path):
    if recipe == "notebook-torch":
        pytest.importorskip("torch", reason="PyTorch is not installed here")
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench.cli", "train", "--recipe", recipe, "--threads", "1"],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # the notebook's numbers are a CPU's
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^ *(\d\d)/10 +([\d.]+) +([\d.]+) +([\d.]+) *$", done.stdout, re.MULTILINE)
    expected = [tuple(line.split()) for line in PRINTED[recipe].strip().splitlines()]
    assert lines == expected


def test_the_digits_recipe_is_for_any_backend_and_the_notebooks_for_one_each():
    assert {name: recipe.backend for name, recipe in RECIPES.items()} == {
        "digits": "",
        "notebook-numpy": "numpy",
        "notebook-torch": "torch-cpu",
    }
    assert {recipe.options.epochs for recipe in RECIPES.values()} == {10}
    assert all(recipe.description for recipe in RECIPES.values())
