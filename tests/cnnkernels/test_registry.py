"""Backends load lazily by name; an installed package adds one, and cannot break the others."""

import re
import sys
from importlib.metadata import EntryPoint

import pytest

from cnnkernels import Backend, registry
from cnnkernels.registry import BrokenBackendError, UnknownBackendError

BUILT_IN = (
    "naive", "numpy", "numba", "numba-simd", "numba-winograd-f4", "numba-winograd-f2",
    "torch-cpu", "torch-cpu-nhwc", "torch-cuda",
)  # fmt: skip


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one backend, and its source."""

    def forget():
        registry._entries.cache_clear()
        registry.load.cache_clear()

    def install(name, source, distribution="stranger"):
        metadata = tmp_path / f"{distribution}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(
            f"[{registry.GROUP}]\n{name} = {distribution}:make\n"
        )
        (tmp_path / f"{distribution}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, distribution, raising=False)
        forget()

    yield install
    forget()


GOOD = """
import dataclasses
from cnnkernels import backends
def make():
    return dataclasses.replace(backends.numpy(), name="quick", description="a stranger's")
"""


def test_the_built_in_backends_come_first_and_the_definition_first_of_all():
    names = registry.names()
    assert names[: len(BUILT_IN)] == BUILT_IN
    assert len(set(names)) == len(names)


def test_a_backend_has_the_name_it_is_loaded_by_and_is_made_once(backend):
    assert isinstance(backend, Backend)
    assert backend.name in registry.names()
    assert registry.load(backend.name) is backend


def test_importing_the_package_and_naming_backends_imports_no_heavy_library(python):
    printed = python(
        "import sys, cnnkernels, cnnkernels.registry, cnnkernels.descriptor\n"
        "cnnkernels.registry.names()\n"
        "cnnkernels.registry.load('numpy')\n"
        "print([m for m in ('torch', 'numba', 'scipy', 'sklearn') if m in sys.modules])"
    )
    assert printed == "[]\n"


def test_importing_the_conformance_checks_imports_neither_torch_nor_numba(python):
    printed = python(
        "import sys, cnnkernels.conformance\n"
        "print([m for m in ('torch', 'numba') if m in sys.modules])"
    )
    assert printed == "[]\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nunba", "unknown backend 'nunba' (did you mean 'numba'?); known here: naive, numpy, "),
        ("xyzzy", "unknown backend 'xyzzy'; known here: naive, numpy, "),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_there_are(name, hint):
    with pytest.raises(UnknownBackendError, match=re.escape(hint)):
        registry.load(name)
    assert issubclass(UnknownBackendError, ValueError)


def test_an_installed_backend_joins_after_the_built_in_ones(install):
    install("quick", GOOD)
    assert registry.names()[-1] == "quick"
    assert registry.load("quick").description == "a stranger's"
    assert "stranger" in sys.modules


def test_an_installed_backend_is_not_imported_before_it_is_loaded(install):
    install("quick", "raise RuntimeError('imported')")
    assert "quick" in registry.names()
    assert registry.load("numpy").name == "numpy"
    assert "stranger" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise KeyError('secret')",
            "'quick' of stranger:make failed to load: KeyError: 'secret'",
        ),
        (
            "import no_such_library",
            "'quick' of stranger:make failed to load: ModuleNotFoundError: No module named",
        ),
        (
            "made = None",
            "'quick' of stranger:make failed to load: AttributeError: ",
        ),
        (
            "def make(): return 1 / 0",
            "'quick' of stranger:make failed to load: ZeroDivisionError: division by zero",
        ),
        (
            "make = 'no function'",
            "'quick' of stranger:make failed to load: TypeError: 'str' object is not callable",
        ),
        (
            "def make(): return 42",
            "expected stranger:make to return a Backend of that name, got 42",
        ),
        (
            GOOD.replace('"quick"', '"other"'),
            "expected stranger:make to return a Backend of that name, got a Backend named 'other'",
        ),
    ],
)
def test_a_broken_backend_says_how_and_leaves_the_others_alone(install, source, message):
    install("quick", source)
    with pytest.raises(BrokenBackendError, match=re.escape(message)):
        registry.load("quick")
    assert registry.load("numpy").name == "numpy"


def test_an_installed_backend_may_decline_to_run_here(install):
    source = "import cnnkernels\ndef make(): raise cnnkernels.Unsupported('no such chip here')"
    install("quick", source)
    with pytest.raises(NotImplementedError, match="no such chip here"):
        registry.load("quick")


def test_a_fault_of_a_built_in_backend_is_raised_as_it_is(install, monkeypatch):
    install("quick", "def make(): return 1 / 0")
    ours = EntryPoint("numpy", "stranger:make", registry.GROUP)
    monkeypatch.setitem(registry._BUILT_IN, "numpy", ours)
    with pytest.raises(ZeroDivisionError):
        registry.load("numpy")


def test_a_name_that_is_taken_is_ignored_with_a_warning(install):
    install("numpy", GOOD.replace('"quick"', '"numpy"'))
    expected = "backend 'numpy' of stranger:make is ignored: cnnkernels.backends:numpy has the name"
    with pytest.warns(UserWarning, match=expected):
        names = registry.names()
    assert names.count("numpy") == 1
    assert registry.load("numpy").description != "a stranger's"


def test_the_first_of_two_installed_backends_of_a_name_is_taken(install):
    install("quick", GOOD)
    install("quick", GOOD, distribution="other")
    with pytest.warns(UserWarning, match="'quick' of (stranger|other):make is ignored"):
        assert registry.names().count("quick") == 1
    assert registry.load("quick").name == "quick"
