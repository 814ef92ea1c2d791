"""Compiled code is cached on disk, and invalidated when any source of the package changes."""

import shutil
from pathlib import Path

import pytest

import cnnkernels

pytest.importorskip("numba")
pytestmark = pytest.mark.slow

KERNEL = """
from cnnkernels import jit

@jit.kernel
def work(number):
    return number + {added}
"""

SPECIAL = """
from cnnkernels import jit

@jit.kernel
def work(number):
    zero = number - number
    return zero, number * 0.0, 1.0 / (number * (number - 1.0))
"""

RUN = """
import pathlib, cnnkernels
assert pathlib.Path(cnnkernels.__file__).is_relative_to(pathlib.Path.cwd()), cnnkernels.__file__
import {module} as module
result = module.work(1)
stats = module.work.stats
print(result, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


@pytest.fixture
def package(tmp_path):
    """Return the folder of a copy of the package that a test may change."""
    copy = tmp_path / "cnnkernels"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(cnnkernels.__file__).parent, copy, ignore=ignored)
    return copy


@pytest.fixture
def work(python, package):
    """Return a function that calls a kernel in a new process: its result, cache hits, misses."""

    def work(module="small", added=1, cache=package.parent / "cache", **environment):
        path = package.parent / Path(*module.split(".")).with_suffix(".py")
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(KERNEL.format(added=added))
        code = RUN.format(module=module)
        printed = python(code, path=package.parent, NUMBA_CACHE_DIR=str(cache), **environment)
        return tuple(map(int, printed.split()))

    return work


COMPILED, REUSED = (2, 0, 1), (2, 1, 0)


def test_compiled_code_is_kept_in_the_cache_folder_and_used_by_the_next_process(work, package):
    assert work() == COMPILED
    kept = [path for path in (package.parent / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    assert work() == REUSED


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "descriptor.py").write_text("# changed"),
        lambda package: (package / "pooling" / "windows.py").unlink(),
        lambda package: (package / "convolution" / "newcomer.py").touch(),
    ],
    ids=["changed", "removed", "added"],
)
def test_compiled_code_is_forgotten_when_any_source_changes(work, package, change):
    assert work() == COMPILED
    change(package)
    assert work() == COMPILED
    assert work() == REUSED


def test_compiled_code_is_used_by_processes_of_the_same_settings_alone(work):
    checked = {"NUMBA_BOUNDSCHECK": "1"}
    assert work(**checked) == COMPILED
    assert work() == COMPILED
    assert work(**checked) == REUSED
    assert work(NUMBA_NUM_THREADS="1") == REUSED


def test_compiled_code_of_another_package_is_forgotten_when_its_file_changes(work, package):
    assert work() == COMPILED
    (package.parent / "small.py").write_text(KERNEL.format(added=2))
    assert work() == (3, 0, 1)


def test_kernels_of_the_same_name_and_line_in_two_modules_are_distinguished(work):
    assert work("one.small", added=1) == (2, 0, 1)
    assert work("two.small", added=2) == (3, 0, 1)
    assert work("one.small") == (2, 1, 0)
    assert work("two.small") == (3, 1, 0)


def test_a_cache_folder_that_cannot_be_written_costs_recompilation_only(work, tmp_path):
    occupied = tmp_path / "file"
    occupied.touch()
    result, *_ = work(cache=occupied / "cache")
    assert result == 2
    assert work(cache=occupied / "cache")[1] == 0


def test_compiled_arithmetic_does_not_assume_that_there_are_no_nans_or_infinities(python, package):
    (package.parent / "special.py").write_text(SPECIAL)
    code = "import special; print(*map(special.work, (1.0, float('inf'), float('nan'))))"
    printed = python(code, path=package.parent, NUMBA_CACHE_DIR="cache")
    assert printed == "(0.0, 0.0, inf) (nan, nan, 0.0) (nan, nan, nan)\n"
