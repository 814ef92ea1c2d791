"""Imports run one way; heavy libraries stay where they belong."""

import ast
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels" / "cnnkernels"
BENCH = ROOT / "bench" / "cnnbench"

FLOORS = (
    ("geometry",),
    ("problem",),
    ("accuracy",),
    ("contract", "arrays"),
    ("descriptor", "strided", "winograd", "jit", "records", "host", "files", "memory"),
    ("simd", "parallel"),
    ("tile_code", "copies", "normalization"),
    ("microkernel",),
    ("vectors", "packing"),
    ("convolution", "pooling", "fallback"),
    ("backends",),
    ("registry",),
    ("plan",),
    ("auto",),
    ("functional", "conformance"),
    ("__init__", "torch"),
)
"""What lies directly below cnnkernels imports from lower floors only."""

OPEN_PLAN = ("conformance", "torch", "winograd")
"""Rooms whose modules import one another; those of the others are rivals, and do not."""

BENCH_NUMBA = ("cnnbench.judging.ceilings", "cnnbench.digits.*numba*")
"""The modules of cnnbench that import Numba."""

HOMES = {
    "torch": (
        "*.torch_aten",
        "cnnkernels.torch.*",
        "cnnbench.workers.session",
        "cnnbench.digits.*torch*",
        "cnnbench.recommend.torch_model",
    ),
    "numba": (
        "cnnkernels.*numba*",
        "cnnkernels.jit",
        "cnnkernels.parallel",
        "cnnkernels.records",
        "cnnkernels.microkernel",
        "cnnkernels.simd",
        "cnnkernels.tile_code",
        "cnnkernels.copies",
        "cnnkernels.packing",
        "cnnkernels.vectors",
        *BENCH_NUMBA,
    ),
    "jax": ("cnnbench.digits.*jax*",),
}
"""Which modules import a heavy library, by name."""

WHEN_CALLED = "cnnkernels.backends"
"""The module that imports any of them, inside functions only."""


# --------------------------------------------------------------------------------------------
# reading imports


def imports(tree, inside_functions=True):
    """Yield the full name of everything that is imported, but for type checkers; a.b for b of a."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.orelse), inside_functions)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside_functions)


def modules(package):
    """Return the syntax tree of each module of a package, by its full name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): ast.parse(
            path.read_text("utf-8"), str(path)
        )
        for path in sorted(package.rglob("*.py"))
    }


OURS = modules(KERNELS)
MODULES = OURS | modules(BENCH)


def imported(name, library, **how):
    """List what a module imports of a library."""
    return [found for found in imports(MODULES[name], **how) if found.split(".")[0] == library]


def module(name):
    """Return the module that a name is imported from."""
    while name not in MODULES:
        if f"{name}.__init__" in MODULES:
            return f"{name}.__init__"
        name = name.rpartition(".")[0]
    return name


def room(name):
    """Return what lies directly below cnnkernels and holds the name."""
    below = name.split(".")[1:2]
    here = below and ((KERNELS / below[0]).is_dir() or (KERNELS / f"{below[0]}.py").is_file())
    return below[0] if here else "__init__"


def package(name):
    """Return the package below a room that a module belongs to, or None."""
    path = KERNELS.joinpath(*name.split(".")[1:3])
    return ".".join(name.split(".")[:3]) if path.is_dir() and path.parent != KERNELS else None


def floor(name):
    levels = [level for level, rooms in enumerate(FLOORS) if room(name) in rooms]
    assert levels, f"{room(name)} is new: give it a floor"
    return levels[0]


# --------------------------------------------------------------------------------------------
# what is asserted


def test_imports_are_found_wherever_they_stand():
    source = """
import a.b, c as d
from e import f, g
if TYPE_CHECKING:
    import for_checkers
else:
    import h
class C:
    try:
        import i
    except ImportError:
        def method(self):
            from j.k import l
"""
    at_once = ["a.b", "c", "e.f", "e.g", "h", "i"]
    assert list(imports(ast.parse(source))) == [*at_once, "j.k.l"]
    assert list(imports(ast.parse(source), inside_functions=False)) == at_once


@pytest.mark.parametrize("name", OURS)
def test_a_module_of_cnnkernels_imports_from_lower_floors_only(name):
    for other in imported(name, "cnnkernels"):
        at_home = room(other) == room(name) and room(name) in OPEN_PLAN
        at_home = at_home or (package(name) and package(name) == package(other))
        assert at_home or floor(other) < floor(name), other


@pytest.mark.parametrize("name", MODULES)
def test_the_files_of_a_kernel_that_is_a_folder_are_imported_by_one_another_only(name):
    folders = {
        package(other)
        for other in imported(name, "cnnkernels")
        if package(other) and ".".join(other.split(".")[:4]) in OURS
    }
    assert folders <= {package(name)}


def test_no_imports_go_round_in_a_circle():
    graph = {
        name: {
            module(other)
            for library in ("cnnkernels", "cnnbench")
            for other in imported(name, library)
        }
        for name in MODULES
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "name", ["convolution.naive", "pooling.naive", "conformance.reference", "conformance.fences"]
)
def test_what_others_are_judged_by_stands_on_the_contract_and_its_arrays_alone(name):
    rooms = {room(other) for other in imported(f"cnnkernels.{name}", "cnnkernels")}
    assert rooms <= {"contract", "arrays", "problem", "geometry"}


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_at_home_only(library):
    strangers = {
        name: imported(name, library, inside_functions=name != WHEN_CALLED)
        for name in MODULES
        if not any(fnmatchcase(name, home) for home in HOMES[library])
    }
    assert {name: found for name, found in strangers.items() if found} == {}


def test_cnnkernels_does_not_import_what_stands_on_it():
    assert [name for name in OURS if imported(name, "cnnbench")] == []


def test_nothing_imports_tests():
    assert [name for name in MODULES if imported(name, "tests")] == []
