"""A plan: the backend chosen for each problem, with the measurements behind the choice.

A plan is a JSON object, written by `cnnbench recommend` and read by `load`:

=============  ===================================================================================
``schema``     ``cnnkernels-plan/1``
``machine``    the fingerprint of the machine; see `cnnkernels.host.fingerprint`
``versions``   the versions of the libraries that compute
``threads``    the number of threads during measurement
``made``       the time, the command and the commit of the measurement
``fallback``   the backend for problems without a choice, unless ``unmeasured`` says otherwise
``choices``    a list; each has ``problem``, a descriptor; ``backend``; ``why``; ``seconds``, by
               backend, of forward plus the backward that training needs; ``samples``, the same
               for each round; ``ratio``, ``low`` and ``high``: the speedup over ``baseline``
               and its interval
=============  ===================================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cnnkernels import descriptor, files, host, registry
from cnnkernels.contract import Backend, Problem, Unsupported

SCHEMA = "cnnkernels-plan/1"

VARIABLE = "CNNKERNELS_PLAN"
"""The environment variable with the path of the plan, for programs that set no plan."""

LIBRARIES = ("cnnbench", "numpy", "numba", "llvmlite", "torch")

Measure: TypeAlias = Callable[[Problem], "Choice"]

Unmeasured: TypeAlias = Literal["warn", "fall back", "refuse"] | Measure
"""How a plan handles a problem without a choice.

'warn' and 'fall back' run the fallback, with and without a warning. 'refuse' raises `Unsupported`.
A function measures the problem and returns a choice, which is added to the plan. Running the
fallback adds nothing to the plan.
"""


class PlanError(ValueError):
    """A plan cannot be read, or was made on another machine; the message says what to do."""


class PlanWarning(UserWarning):
    """A plan is in use, but conditions differ from those measured; the message says how."""


@contextlib.contextmanager
def hearing(hear: Callable[[str], None]) -> Iterator[None]:
    """Pass each `PlanWarning` raised in the block to a function, instead of showing it.

    Repeated warnings are passed on too.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, PlanWarning):
                hear(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = showwarning
        warnings.simplefilter("always", PlanWarning)
        yield


@dataclass(frozen=True)
class Choice:
    """The backend chosen for a problem, and the measurements behind it.

    Attributes
    ----------
    backend : str
        The name of the chosen backend.
    why : str
        The reason, in a few words.
    seconds : dict of str to float
        Seconds of forward plus the backward that training needs, by backend.
    samples : dict of str to list of float
        The same, measured side by side: two samples per round.
    baseline : str
        The backend that `ratio` compares with.
    ratio, low, high : float or None
        Speedup over the baseline, and its interval.
    """

    backend: str
    why: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    baseline: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class Plan:
    """Choices by problem, with the machine and versions they were measured on.

    Attributes
    ----------
    choices : dict of Problem to Choice
    fallback : str
        The backend for problems without a choice.
    threads : int
        The number of threads during measurement.
    machine, versions, made : dict of str to str
        As in the file; see the module docstring.
    unmeasured : 'warn', 'fall back', 'refuse' or callable
        How to handle a problem without a choice; see `Unmeasured`. Not saved in the file.
    """

    choices: dict[Problem, Choice]
    fallback: str
    threads: int
    machine: dict[str, str] = field(default_factory=host.fingerprint)
    versions: dict[str, str] = field(default_factory=lambda: host.versions(*LIBRARIES))
    made: dict[str, str] = field(default_factory=dict)
    unmeasured: Unmeasured = "warn"

    def __post_init__(self) -> None:
        self._warned: set[Problem] = set()
        for name in (self.fallback, *(choice.backend for choice in self.choices.values())):
            _require_kernels(name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled plan, and warn if it was made on another machine."""
        self.__dict__.update(state)
        self._warned = set()
        elsewhere = self._elsewhere()
        if elsewhere:
            warnings.warn(
                f"following a plan made on another machine ({elsewhere}); other kernels may be "
                "faster here: make a plan by cnnbench recommend",
                PlanWarning,
                stacklevel=2,
            )

    def backend_for(self, problem: Problem, *, measuring: bool = True) -> Backend:
        """Return the backend for a problem.

        Parameters
        ----------
        problem : Problem
        measuring : bool
            Whether a problem without a choice may be measured now, if `unmeasured` is a function.
            If not, the fallback is returned with a warning, and a later call measures the problem.

        Raises
        ------
        Unsupported
            If the plan has no choice for the problem and `unmeasured` is 'refuse', or if the
            backend cannot run here.
        """
        choice = self.choices.get(problem)
        if choice is None and measuring and callable(self.unmeasured):
            choice = self.unmeasured(problem)
            if not isinstance(choice, Choice):
                raise TypeError(
                    f"unmeasured: expected the function to return a Choice, got {choice!r}"
                )
            self.choices[problem] = choice
        return _load(self._fallback_for(problem) if choice is None else choice.backend)

    def load(self) -> list[str]:
        """Load the fallback and every chosen backend; return their names.

        Raises
        ------
        Unsupported
            If one cannot run here, or cannot run a problem that it was chosen for.
        """
        names = sorted({self.fallback, *(c.backend for c in self.choices.values())})
        for name in names:
            try:
                _load(name)
            except Unsupported as reason:
                raise Unsupported(f"the plan has chosen {name}: {reason}") from None
        for problem, choice in self.choices.items():
            _require_able(choice.backend, problem)
        return names

    def _fallback_for(self, problem: Problem) -> str:
        if self.unmeasured == "refuse":
            raise Unsupported(
                f"the plan has no choice for {problem}; measure it by cnnbench recommend, "
                "or allow the fallback: unmeasured='fall back'"
            )
        if self.unmeasured != "fall back" and problem not in self._warned:
            self._warned.add(problem)
            warnings.warn(
                f"the plan has no choice for {problem}: {self.fallback} computes it, unmeasured",
                PlanWarning,
                stacklevel=3,
            )
        return self.fallback

    def _elsewhere(self) -> str:
        """Return how the plan's machine differs from this one; empty if it doesn't."""
        here = host.fingerprint()
        here.pop("memory", None)  # decides no kernel's speed
        for newer in ("microarchitecture", "caches"):
            if newer not in self.machine:  # an older plan, which lacks it
                here.pop(newer, None)
        return "; ".join(
            f"{key} {self.machine.get(key, 'unknown')!r}, here {value!r}"
            for key, value in here.items()
            if self.machine.get(key) != value
        )

    def pinned(self, backend: str, *problems: Problem) -> Plan:
        """Return the plan with a fixed backend for these problems, or for all if none is given.

        Raises
        ------
        UnknownBackendError
            If no backend has this name.
        PlanError
            If the backend is 'auto'.
        Unsupported
            If the backend cannot run one of the problems.
        """
        _load(backend)
        changed = dict(self.choices)
        for problem in problems or tuple(self.choices):
            _require_able(backend, problem)
            known = self.choices.get(problem, Choice(backend))
            changed[problem] = _rechosen(known, backend, "pinned")
        fallback = self.fallback if problems else backend
        return dataclasses.replace(self, choices=changed, fallback=fallback)

    def excluding(self, *backends: str) -> Plan:
        """Return the plan without these backends; the fastest remaining one replaces each.

        Raises
        ------
        PlanError
            If no backend is left for a problem.
        """
        changed = dict(self.choices)
        for problem, choice in self.choices.items():
            if choice.backend not in backends:
                continue
            left = {name: s for name, s in choice.seconds.items() if name not in backends}
            if not left:
                raise PlanError(
                    f"without {', '.join(backends)} the plan has no backend left for {problem}"
                )
            instead = min(left, key=left.__getitem__)
            changed[problem] = _rechosen(choice, instead, f"{choice.backend} is excluded")
        fallback = self.fallback
        if fallback in backends:
            chosen = [choice.backend for choice in changed.values()]
            if not chosen:
                raise PlanError(f"without {', '.join(backends)} the plan has no backend left")
            fallback = max(sorted(set(chosen)), key=chosen.count)
        return dataclasses.replace(self, choices=changed, fallback=fallback)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, atomically; see `cnnkernels.files`.

        Raises
        ------
        PlanError
            If the file cannot be written.
        """
        plain = {
            "schema": SCHEMA,
            "machine": self.machine,
            "versions": self.versions,
            "threads": self.threads,
            "made": self.made,
            "fallback": self.fallback,
            "choices": [
                {"problem": str(problem), **dataclasses.asdict(choice)}
                for problem, choice in self.choices.items()
            ],
        }
        try:
            files.write(path, json.dumps(plain, indent=1) + "\n")
        except files.WriteError as error:
            raise PlanError(str(error)) from None


def _require_kernels(name: str) -> None:
    if name == registry.AUTO:
        raise PlanError(
            f"expected a backend with kernels of its own, got {name!r}, which follows a plan: "
            "name the backend that should run instead"
        )


def _load(name: str) -> Backend:
    _require_kernels(name)
    return registry.load(name)


def _require_able(name: str, problem: Problem) -> None:
    reason = _load(name).unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{name}: {problem}: {reason}")


def _rechosen(choice: Choice, backend: str, why: str) -> Choice:
    """Return a choice with another backend, without the interval of the former one."""
    mine, base = choice.seconds.get(backend), choice.seconds.get(choice.baseline)
    ratio = base / mine if mine and base else None
    return dataclasses.replace(choice, backend=backend, why=why, ratio=ratio, low=None, high=None)


def load(
    path: str | os.PathLike[str], *, force: bool = False, unmeasured: Unmeasured = "warn"
) -> Plan:
    """Read a plan from a file; reject it if it was made on another kind of machine.

    Parameters
    ----------
    path : path
        The file.
    force : bool
        Accept a plan made on another machine.
    unmeasured : 'warn', 'fall back', 'refuse' or callable
        How to handle problems without a choice; see `Unmeasured`.

    Raises
    ------
    PlanError
        If the file cannot be read or is not a plan, or if the plan was made on another machine and
        `force` is False.
    """
    plan = _read(Path(path))
    elsewhere = plan._elsewhere()
    if elsewhere and not force:
        raise PlanError(
            f"{path}: made on another machine ({elsewhere}), so other kernels may be faster here: "
            "make a plan here by cnnbench recommend, or follow this one anyway: --force or "
            "force=True"
        )
    now = host.versions(*plan.versions)
    changed = [
        f"{library} {version}, here {now.get(library, 'none')}"
        for library, version in plan.versions.items()
        if now.get(library) != version
    ]
    if changed:
        warnings.warn(f"{path}: measured with {'; '.join(changed)}", PlanWarning, stacklevel=2)
    plan.unmeasured = unmeasured
    return plan


def _read(path: Path) -> Plan:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise PlanError(f"{path}: expected a plan in JSON: {error}") from None
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        found = plain.get("schema") if isinstance(plain, dict) else type(plain).__name__
        raise PlanError(
            f"{path}: expected a plan with schema {SCHEMA!r}, got {found!r}: "
            "cnnbench recommend writes one"
        )
    try:
        choices = {
            descriptor.parse(line.pop("problem")): _choice(line) for line in plain["choices"]
        }
        plan = Plan(
            choices,
            fallback=plain["fallback"],
            threads=int(plain["threads"]),
            machine=_texts(plain["machine"]),
            versions=_texts(plain["versions"]),
            made=_texts(plain.get("made", {})),
        )
        for name in (plan.fallback, *(choice.backend for choice in choices.values())):
            registry.require_known(name)
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path}: a part of the plan is missing or malformed: {error!r}") from None
    except ValueError as error:
        raise PlanError(f"{path}: {error}") from None
    return plan


def _choice(line: Mapping[str, Any]) -> Choice:
    choice = Choice(**line)
    if not isinstance(choice.backend, str):
        raise TypeError(f"expected the name of a backend, got {choice.backend!r}")
    for seconds in choice.seconds.values():
        if not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"expected seconds above zero, got {seconds!r}")
    return choice


def _texts(plain: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in plain.items()}


# --------------------------------------------------------------------------------------------
# the active plan

_in_force: Plan | None = None


def use(
    plan: Plan | str | os.PathLike[str] | None,
    *,
    force: bool = False,
    unmeasured: Unmeasured | None = None,
) -> Plan | None:
    """Set the active plan of this process, for ``backend="auto"``; return the previous one.

    Parameters
    ----------
    plan : Plan, path or None
        A path is read as by `load`; None deactivates the plan.
    force : bool
        Accept a plan from a path that was made on another machine.
    unmeasured : 'warn', 'fall back', 'refuse' or callable, optional
        How to handle problems without a choice; see `Unmeasured`. By default as in the plan, and
        'warn' for a path. A plan passed in is not modified: a copy becomes active, which shares its
        `choices`.
    """
    global _in_force  # one per process, like PyTorch's number of threads
    before = _in_force
    if plan is not None and not isinstance(plan, Plan):
        plan = load(plan, force=force)
    if plan is not None and unmeasured is not None:
        plan = dataclasses.replace(plan, unmeasured=unmeasured)
    _in_force = plan
    return before


def current() -> Plan:
    """Return the active plan: the one set by `use`, else the file named in CNNKERNELS_PLAN.

    Raises
    ------
    Unsupported
        If no plan is active.
    PlanError
        If the file cannot be read, or its plan was made on another machine.
    """
    if _in_force is not None:
        return _in_force
    path = os.environ.get(VARIABLE)
    if not path:
        raise Unsupported(
            "no plan is active: make one by cnnbench recommend, and activate it by "
            f"cnnkernels.plan.use('plan.json') or {VARIABLE}=plan.json"
        )
    return _of_environment(path)


@functools.cache
def _of_environment(path: str) -> Plan:
    return load(path)
