"""The result of `cnnbench recommend`: a backend for each layer, and the times of whole steps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from cnnbench import timing
from cnnbench.recommend.networks import Layer, Network
from cnnbench.results import ResultsError, Row, Run
from cnnkernels.contract import Problem
from cnnkernels.descriptor import parse
from cnnkernels.plan import Choice, Plan
from cnnkernels.registry import AUTO

NATIVE = "torch-cpu"
"""The backend whose kernels PyTorch's own layers call."""

NATIVE_NHWC = "torch-cpu-nhwc"
"""The backend whose kernels they call in the channels_last layout."""

CHANNELS_LAST = "torch-cpu, channels_last"
"""A whole PyTorch model in the channels_last layout."""

AUTOCAST = "torch-cpu, bf16 autocast"
"""A whole PyTorch model whose forward computes in bfloat16 where PyTorch deems it safe."""

AUTOCAST_ERROR = 2.0**16
"""The rounding error of bfloat16, relative to that of float32: it has 16 bits less."""

COMPILED = "torch.compile"
"""A whole PyTorch model, compiled."""

COMPILED_PLAN = "the plan, torch.compile"
"""A PyTorch model that follows the plan, compiled."""

LAYOUTS = (NATIVE, CHANNELS_LAST)
"""The layouts of an unconverted PyTorch model; a converted one must beat the faster."""

_BFLOAT16 = (
    f"bfloat16 rounds {AUTOCAST_ERROR:.0f} times as coarsely as float32; --max-error "
    f"{AUTOCAST_ERROR:.0f} would allow it"
)

PINNED = "pinned"
"""The reason for a backend fixed by the user."""


def named(way: str) -> str:
    """Return the name of a way of training in tables and sentences."""
    return "the mix" if way == AUTO else way


@dataclass
class Candidate:
    """A backend's seconds for a layer: forward plus the backward that training needs."""

    seconds: float
    samples: list[float]


@dataclass
class Decision:
    """The chosen backend of a layer, and the alternatives.

    Attributes
    ----------
    layer : Layer
    choice : Choice or None
    candidates : dict of str to Candidate
        By backend.
    refused : dict of str to str
        By backend, why it cannot be chosen.
    channels_last : float or None
        Seconds in PyTorch's channels_last layout, without conversion from and to NCHW.
    """

    layer: Layer
    choice: Choice | None
    candidates: dict[str, Candidate]
    refused: dict[str, str]
    channels_last: float | None = None

    def choose(self, backend: str, why: str, baseline: str) -> Choice:
        """Return the choice of a backend, with the measurements."""
        chosen, base = self.candidates[backend], self.candidates.get(baseline)
        ratio = low = high = None
        if base is not None:
            ratio, low, high = timing.ratio(
                timing.Samples(chosen.samples), timing.Samples(base.samples)
            ).known()
        return Choice(
            backend,
            why,
            {name: candidate.seconds for name, candidate in self.candidates.items()},
            {name: candidate.samples for name, candidate in self.candidates.items()},
            baseline,
            ratio,
            low,
            high,
        )

    @property
    def pinned(self) -> bool:
        """Whether the user fixed the backend."""
        return self.choice is not None and self.choice.why == PINNED


@dataclass
class Recommendation:
    """A recommendation.

    Attributes
    ----------
    network : Network
    kind : 'model', 'network' or 'layers'
        A PyTorch model, one of the suite's own networks, or layers alone, without whole steps.
    plan : Plan
        The plan to follow; the reference's own if no whole step is certainly faster.
    decisions : list of Decision
        One for each layer, measured alone.
    barred : dict of str to str
        Backends that may not be chosen for any layer, with the reason.
    baseline : str
    slow : dict of str to float
        Backends that a first probe showed to be several times slower than the fastest, with how
        many times; they were not measured further.
    parts : dict of str to dict
        By way of training a PyTorch model, the seconds of a step by kind of operator, as
        `parts.of_steps` returns them.
    max_error : float or None
        As `choose.Wishes` has it.
    options : dict
        Training options of one of the suite's own networks.
    steps : list of Row
        Training steps, measured side by side.
    follow : bool
        Whether the plan is worth following.
    stay : str
        The way of training to keep, if it is not.
    compiled : bool
        Whether the plan is to be followed under `torch.compile`.
    answer : str
    """

    network: Network
    kind: Literal["model", "network", "layers"]
    plan: Plan
    decisions: list[Decision]
    barred: dict[str, str]
    baseline: str
    slow: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    max_error: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: list[Row] = field(default_factory=list)
    follow: bool = True
    stay: str = ""
    compiled: bool = False
    answer: str = ""

    @property
    def reference(self) -> str:
        """The way of training that whole steps are compared with."""
        return NATIVE if self.kind == "model" else self.baseline

    @property
    def way(self) -> str:
        """The recommended way of training."""
        if self.stay or self.compiled:
            return self.stay or COMPILED_PLAN
        backends = {choice.backend for choice in self.plan.choices.values()}
        return backends.pop() if len(backends) == 1 else AUTO

    @property
    def mixed(self) -> bool:
        """Whether different backends are the choice for different layers."""
        return len({d.choice.backend for d in self.decisions if d.choice is not None}) > 1

    def total(self, way: str) -> float | None:
        """Return the seconds of all layers of a step, None if one cannot be computed this way.

        `AUTO` computes each layer by its chosen backend.
        """
        seconds = 0.0
        for decision in self.decisions:
            of_layer = self._seconds(decision, way)
            if of_layer is None:
                return None
            seconds += len(decision.layer.names) * of_layer
        return seconds

    def _seconds(self, decision: Decision, way: str) -> float | None:
        if way == CHANNELS_LAST:
            return decision.channels_last
        name = way
        if decision.choice and (way == AUTO or (decision.pinned and self._converts(way))):
            name = decision.choice.backend
        candidate = decision.candidates.get(name)
        if candidate is None:
            return None
        return candidate.seconds

    def _converts(self, way: str) -> bool:
        """Whether this is a PyTorch model converted to one backend, except for pinned layers."""
        return self.kind == "model" and way not in (*LAYOUTS, AUTO)

    def uniform(self, backend: str) -> Plan:
        """Return a plan with one backend for every layer it can compute, and as the fallback.

        Pinned layers keep their backend.
        """
        changed = {
            decision.layer.problem: decision.choose(backend, "for the whole step", self.baseline)
            for decision in self.decisions
            if backend in decision.candidates and not decision.pinned
        }
        choices = {**self.plan.choices, **changed}
        return dataclasses.replace(self.plan, choices=choices, fallback=backend)

    @property
    def taken(self) -> list[Row]:
        """The measured steps, fastest first."""
        return sorted(
            (row for row in self.steps if row.outcome == "ok" and row.samples),
            key=lambda row: row.seconds or math.inf,
        )

    def why_not(self, way: str) -> str | None:
        """Return why a way of training may not be recommended; None if it may."""
        if way == AUTO:
            return None
        if way == AUTOCAST:
            allowed = self.max_error is not None and self.max_error >= AUTOCAST_ERROR
            return None if allowed else _BFLOAT16
        if way in (COMPILED, COMPILED_PLAN):
            return None
        if way == CHANNELS_LAST:
            in_layout = self.barred.get(NATIVE_NHWC) or self._refused(NATIVE_NHWC)
            return self.why_not(NATIVE) or in_layout
        reason = self.barred.get(way) or self._refused(way)
        if reason is None and not self._converts(way):
            for decision in self.decisions:
                if decision.pinned and decision.choice and decision.choice.backend != way:
                    reason = f"{decision.layer.names[0]} is pinned to {decision.choice.backend}"
        return reason

    def _refused(self, backend: str) -> str | None:
        if backend in self.slow:
            return f"{self.slow[backend]:.2g} times slower than the fastest in first steps"
        for decision in self.decisions:
            if backend in decision.refused:
                return f"{decision.layer.names[0]}: {decision.refused[backend]}"
        return None

    def as_json(self) -> dict[str, Any]:
        """Return everything except the steps, which are rows of the run."""
        return {
            "name": self.network.name,
            "kind": self.kind,
            "left": [list(pair) for pair in self.network.left],
            "baseline": self.baseline,
            "barred": self.barred,
            "slow": self.slow,
            "parts": self.parts,
            "max_error": self.max_error,
            "options": self.options,
            "follow": self.follow,
            "stay": self.stay,
            "compiled": self.compiled,
            "answer": self.answer,
            "plan": {
                "fallback": self.plan.fallback,
                "threads": self.plan.threads,
                "machine": self.plan.machine,
                "versions": self.plan.versions,
                "made": self.plan.made,
            },
            "layers": [
                {
                    "names": list(decision.layer.names),
                    "problem": str(decision.layer.problem),
                    "backward": decision.layer.backward,
                    "choice": decision.choice and dataclasses.asdict(decision.choice),
                    "planned": self._planned(decision.layer.problem),
                    "refused": decision.refused,
                    "channels_last": decision.channels_last,
                }
                for decision in self.decisions
            ],
        }

    def _planned(self, problem: Problem) -> dict[str, Any] | None:
        choice = self.plan.choices.get(problem)
        return None if choice is None else dataclasses.asdict(choice)


def kept(run: Run) -> Recommendation | None:
    """Return the recommendation of a saved run, None if it has none (an interrupted run).

    Raises
    ------
    ResultsError
        If the saved recommendation cannot be read.
    """
    plain = run.environment.get("recommendation")
    if plain is None:
        return None
    try:
        decisions, choices = [], {}
        for line in plain["layers"]:
            layer = Layer(tuple(line["names"]), parse(line["problem"]), line["backward"])
            choice = line["choice"] and Choice(**line["choice"])
            candidates = {
                name: Candidate(seconds, choice.samples[name])
                for name, seconds in (choice.seconds if choice else {}).items()
            }
            decisions.append(
                Decision(layer, choice, candidates, line["refused"], line["channels_last"])
            )
            if line["planned"]:
                choices[layer.problem] = Choice(**line["planned"])
        layers = tuple(decision.layer for decision in decisions)
        left = tuple((where, why) for where, why in plain["left"])
        return Recommendation(
            network=Network(plain["name"], layers, left),
            plan=Plan(choices, **plain["plan"]),
            decisions=decisions,
            steps=[row for row in run.rows if row.op == "step"],
            # Absent from recommendations that older versions saved:
            slow=plain.get("slow", {}),
            parts=plain.get("parts", {}),
            max_error=plain.get("max_error"),
            compiled=plain.get("compiled", False),
            **{
                name: plain[name]
                for name in (
                    "kind", "baseline", "barred", "options", "follow", "stay", "answer"
                )
            },
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ResultsError(
            f"{run.paths[0]}: expected a recommendation written by cnnbench recommend: {error!r}"
        ) from None
