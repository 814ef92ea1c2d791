"""A plan: which backend computes which problem, why, and where that was measured.

A plan is a JSON object, written by `cnnbench recommend` and read by `load`:

=============  ===================================================================================
``schema``     ``cnnkernels-plan/1``
``machine``    what tells the machine from others, as `cnnkernels.host.fingerprint` returns it
``versions``   of the libraries that compute
``threads``    how many, while it was measured
``made``       when, by which command, of which commit
``fallback``   the backend of problems that the plan does not have, when nothing else is asked for
``choices``    a list; each has ``problem``, a descriptor; ``backend``; ``why``; ``seconds``, by
               backend, of a forward and the backward that training needs; ``samples``, the same
               round by round; ``ratio``, ``low`` and ``high``: how many times as fast as
               ``baseline`` the backend is, and the interval of that
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
"""The environment variable that names the plan's file where a program names none."""

LIBRARIES = ("cnnbench", "numpy", "numba", "llvmlite", "torch")

Measure: TypeAlias = Callable[[Problem], "Choice"]

Unmeasured: TypeAlias = Literal["warn", "fall back", "refuse"] | Measure
"""What becomes of a problem that a plan has no choice for: the fallback computes it, with a warning
or without; it is refused; or a function measures it then, and returns the choice, which the plan
keeps. That the fallback computed something is no choice, and is not kept."""


class PlanError(ValueError):
    """A plan that cannot be read or is not for here; the message says what to do."""


class PlanWarning(UserWarning):
    """A plan is followed, but something differs from what was measured; the message says what."""


@contextlib.contextmanager
def hearing(hear: Callable[[str], None]) -> Iterator[None]:
    """Call a function with each `PlanWarning` of the block, instead of showing it.

    Every one is heard, also where the same was warned of before.
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
    """Who computes a problem, and what was measured.

    Attributes
    ----------
    backend : str
    why : str
        In a few words.
    seconds : dict of str to float
        Of a forward and the backward that training needs, by backend.
    samples : dict of str to list of float
        The same, side by side in rounds, two a round.
    baseline : str
        What the ratio is against.
    ratio, low, high : float or None
        How many times as fast as the baseline, and the interval.
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
    """Choices by problem, and where they were made.

    Attributes
    ----------
    choices : dict of Problem to Choice
    fallback : str
        The backend of problems without a choice.
    threads : int
    machine, versions, made : dict of str to str
        See the module.
    unmeasured : 'warn', 'fall back', 'refuse' or callable
        What becomes of a problem without a choice; see `Unmeasured`. Not kept in the file.
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
        """Take what was pickled, maybe with a model; say so if that was on another machine."""
        self.__dict__.update(state)
        self._warned = set()
        elsewhere = self._elsewhere()
        if elsewhere:
            warnings.warn(
                f"a plan made on another machine ({elsewhere}) is followed, and other kernels may "
                "be the fastest here: make one by cnnbench recommend",
                PlanWarning,
                stacklevel=2,
            )

    def backend_for(self, problem: Problem, *, measuring: bool = True) -> Backend:
        """Return who computes a problem.

        Parameters
        ----------
        problem : Problem
        measuring : bool
            Whether a problem without a choice may be measured now, if that was asked for; where it
            may not, the fallback is returned with a warning, and the problem is measured later.

        Raises
        ------
        Unsupported
            If the plan has no choice for the problem and refuses others, or the backend that it
            names cannot run here.
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
        """Load every backend that was chosen, and the fallback; return their names.

        Raises
        ------
        Unsupported
            If one cannot run here, or cannot do what it was chosen for.
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
                "or let the plan fall back: unmeasured='fall back'"
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
        """Return in what the plan's machine differs from this one; nothing if it is this one."""
        here = host.fingerprint()
        if "microarchitecture" not in self.machine:  # a plan of before it was recorded
            del here["microarchitecture"]
        return "; ".join(
            f"{key} {self.machine.get(key, 'unknown')!r}, here {value!r}"
            for key, value in here.items()
            if self.machine.get(key) != value
        )

    def pinned(self, backend: str, *problems: Problem) -> Plan:
        """Return the plan with a backend for these problems, whatever was measured; all if none.

        Raises
        ------
        UnknownBackendError
            If no backend has this name.
        PlanError
            If it is 'auto'.
        Unsupported
            If it cannot do one of them.
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
        """Return the plan without some backends: the fastest of the others is chosen instead.

        Raises
        ------
        PlanError
            If none is left for a problem.
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
        """Write the plan as JSON, whole or not at all; see `cnnkernels.files`.

        Raises
        ------
        PlanError
            If it cannot be written.
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
            "name the backend that is to compute"
        )


def _load(name: str) -> Backend:
    _require_kernels(name)
    return registry.load(name)


def _require_able(name: str, problem: Problem) -> None:
    reason = _load(name).unsupported(problem)
    if reason is not None:
        raise Unsupported(f"{name}: {problem}: {reason}")


def _rechosen(choice: Choice, backend: str, why: str) -> Choice:
    """Return a choice with another backend; the interval was of the one that was chosen."""
    mine, base = choice.seconds.get(backend), choice.seconds.get(choice.baseline)
    ratio = base / mine if mine and base else None
    return dataclasses.replace(choice, backend=backend, why=why, ratio=ratio, low=None, high=None)


def load(
    path: str | os.PathLike[str], *, force: bool = False, unmeasured: Unmeasured = "warn"
) -> Plan:
    """Return a plan from its file, if it was made on a machine like this one.

    Parameters
    ----------
    path : path
    force : bool
        Follow it even if it was made on another machine.
    unmeasured : 'warn', 'fall back', 'refuse' or callable
        What becomes of problems without a choice; see `Unmeasured`.

    Raises
    ------
    PlanError
        If it cannot be read, is no plan, or was made elsewhere and is not forced.
    """
    plan = _read(Path(path))
    elsewhere = plan._elsewhere()
    if elsewhere and not force:
        raise PlanError(
            f"{path}: made on another machine ({elsewhere}), where other kernels may be "
            "the fastest: make one here by cnnbench recommend, or follow it even so: --force, or "
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
        raise PlanError(
            f"{path}: a part of the plan is missing or of another kind: {error!r}"
        ) from None
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
# the plan in force

_in_force: Plan | None = None


def use(
    plan: Plan | str | os.PathLike[str] | None,
    *,
    force: bool = False,
    unmeasured: Unmeasured | None = None,
) -> Plan | None:
    """Put a plan in force, for ``backend="auto"`` in this process; return the one before.

    Parameters
    ----------
    plan : Plan, path or None
        A path is loaded as `load` does; None ends the plan's force.
    force : bool
        Follow a path's plan even if it was made on another machine.
    unmeasured : 'warn', 'fall back', 'refuse' or callable, optional
        What becomes of problems without a choice; see `Unmeasured`. Without it as the plan has it,
        which of a path is 'warn'. A plan that is given stays as it is: a copy is in force, with the
        same `choices`.
    """
    global _in_force  # a process has one, like PyTorch's number of threads
    before = _in_force
    if plan is not None and not isinstance(plan, Plan):
        plan = load(plan, force=force)
    if plan is not None and unmeasured is not None:
        plan = dataclasses.replace(plan, unmeasured=unmeasured)
    _in_force = plan
    return before


def current() -> Plan:
    """Return the plan in force: the one in `use`, else that of the file in CNNKERNELS_PLAN.

    Raises
    ------
    Unsupported
        If there is none.
    PlanError
        If the file cannot be followed.
    """
    if _in_force is not None:
        return _in_force
    path = os.environ.get(VARIABLE)
    if not path:
        raise Unsupported(
            "no plan is in force: cnnbench recommend makes one; cnnkernels.plan.use('plan.json') "
            f"or {VARIABLE}=plan.json puts it in force"
        )
    return _of_environment(path)


@functools.cache
def _of_environment(path: str) -> Plan:
    return load(path)
