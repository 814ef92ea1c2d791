"""A small repository with commits, and results of asv's in it."""

import json

import pytest

from cnnbench.history import selftest

ENVIRONMENT = "virtualenv-py3.11"
MACHINE = "a-machine"


class Checkout:
    """A repository and its results.

    Parameters
    ----------
    folder : path
        Where it is made.
    """

    def __init__(self, folder):
        self.folder = folder
        self.commits = selftest.build(folder)
        self.results = folder / "results"
        self._benchmarks = {}

    def benchmark(self, name, unit="seconds", params=(), param_names=(), version="1"):
        self._benchmarks[name] = {
            "name": name, "unit": unit, "params": [[repr(p) for p in ps] for ps in params],
            "param_names": list(param_names), "version": version, "type": "time",
            "code": "", "timeout": 60,
        }  # fmt: skip
        self.results.mkdir(exist_ok=True)
        (self.results / "benchmarks.json").write_text(
            json.dumps({**self._benchmarks, "version": 2})
        )

    def add(self, commit, values, machine=MACHINE, version="1", libraries=()):
        """Keep values, by benchmark, as asv does: of an environment with versions of libraries."""
        libraries = dict(libraries)
        environment = "-".join([ENVIRONMENT, *map("".join, libraries.items())])
        folder = self.results / machine
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
        kept = {
            "commit_hash": commit,
            "env_name": environment,
            "date": 1767268800000,
            "params": {"machine": machine, "python": "3.11", **libraries},
            "python": "3.11",
            "requirements": libraries,
            "env_vars": {},
            "result_columns": ["result", "params", "version"],
            "results": {
                name: [value, self._benchmarks[name]["params"], version]
                for name, value in values.items()
            },
            "durations": {},
            "version": 2,
        }
        (folder / f"{commit[:8]}-{environment}.json").write_text(json.dumps(kept))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "checkout")
