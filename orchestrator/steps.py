"""From a spec to steps: matrix instances in running order, references resolved, parameters checked.

Pure: nothing is read but the spec and the plugins' source files, and no stage runs. Every mistake is found in one pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Problem, SpecError
from orchestrator.spec import Retry, Spec, StageSpec
from orchestrator.stage import Complaint, Facts, Foresight, Scale, Stage
from trainers import plugins

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Port:
    """A stage's input as its class declares it: "model", "model?" (optional), "model*" (a list)."""

    name: str
    kind: str
    optional: bool
    many: bool

    @classmethod
    def parse(cls, name: str, declared: str) -> Port:
        return cls(name, declared.rstrip("?*"), "?" in declared, "*" in declared)


@dataclass(frozen=True)
class Source:
    """Where an input comes from: an output of a step."""

    step: str
    output: str


@dataclass(frozen=True)
class Step:
    """One stage instance, ready to be planned. `stage` is its class with its parameters."""

    id: str  # "train", "train.seed-0"
    name: str  # "train"
    uses: str
    cell: Mapping[str, Any]  # its place in the matrix
    stage: Stage
    params: Mapping[str, Any]  # with defaults filled in
    inputs: Mapping[str, tuple[Source, ...]]  # by port, in the order of the port declarations
    ports: Mapping[str, Port]
    outputs: Mapping[str, str]  # output name -> artifact kind
    seed: int
    scale: Scale
    retry: Retry
    timeout_s: float | None
    version: int
    packages: tuple[str, ...]
    extends: str | None
    tracks: bool = False
    ahead: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """As a user writes it: train[seed=0]."""
        cell = ",".join(f"{axis}={value}" for axis, value in self.cell.items())
        return f"{self.name}[{cell}]" if cell else self.name

    @property
    def producers(self) -> tuple[str, ...]:
        """Ids of the steps whose outputs it needs."""
        return tuple(dict.fromkeys(source.step for sources in self.inputs.values() for source in sources))

    def gather(self, outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What arrives at each port, given every step's outputs: one value, or a list where the port collects."""
        found: dict[str, Any] = {}
        for port, sources in self.inputs.items():
            values = [outputs[source.step][source.output] for source in sources]
            found[port] = values if self.ports[port].many else values[0]
        return found


@dataclass
class Expansion:
    """Steps in running order and what they foresee without running anything."""

    steps: list[Step]
    foresights: dict[str, Foresight] = field(default_factory=dict)


def expand(spec: Spec, problems: Sequence[Problem] = ()) -> Expansion:
    """Every step of the spec. Raises SpecError with every problem found, after those that `spec.load` found already."""
    found = _Expander(spec, list(problems))
    expansion = found.expand()
    if found.problems:
        raise SpecError(sorted(found.problems, key=lambda problem: (problem.line or math.inf, problem.col)))
    return expansion


def complaints(spec: Spec, name: str, found: Iterable[Complaint]) -> list[Problem]:
    """A stage's complaints with the positions that belong to them."""
    return [
        spec.problem(("stages", name, *(("with",) if c.at == "with" else ()), *c.path), c.id, c.what, c.why, c.hint)
        for c in found
    ]


def foresee(step: Step, outputs: Mapping[str, Mapping[str, Facts]]) -> Foresight:
    """What the step foresees, given the facts of every output before it; {} stands for what is not known."""
    known = {name: {o: outputs.get(name, {}).get(o, {}) for o in _all(step, name)} for name in step.producers}
    missing: dict[str, Any] = {port.name: [] if port.many else {} for port in step.ports.values() if not port.optional}
    return step.stage.foresee({**missing, **step.gather(known)})


def _all(step: Step, producer: str) -> set[str]:
    return {source.output for sources in step.inputs.values() for source in sources if source.step == producer}


class _Expander:
    def __init__(self, spec: Spec, problems: list[Problem]) -> None:
        self.spec = spec
        self.problems = problems
        self.described: dict[str, plugins.Description] = {}
        self.cells: dict[str, list[dict[str, Any]]] = {}

    def expand(self) -> Expansion:
        for name, stage in self.spec.stages.items():
            self._describe(name, stage)
        sources = {name: self._sources(name) for name in self.described}
        order = self._order(sources)
        expansion = Expansion([])
        facts: dict[str, dict[str, Facts]] = {}
        for name in order:
            for cell in self.cells[name]:
                step = self._step(name, cell, sources[name])
                if step is None:
                    continue
                if any(step.id == other.id for other in expansion.steps):
                    what = f"two cells of the matrix have the same name, {step.id}"
                    self._fault(("stages", name, "matrix"), "same-cell", what, "", "write different values")
                    continue
                expansion.steps.append(step)
                foresight = foresee(step, facts)
                self._tell(complaints(self.spec, name, foresight.complaints))
                expansion.foresights[step.id] = foresight
                facts[step.id] = {o: dict(foresight.outputs.get(o, {})) for o in step.outputs}
        return expansion

    def _tell(self, problems: Iterable[Problem]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]

    def _fault(self, path: Path, error_id: str, what: str, why: str = "", hint: str = "") -> None:
        self._tell([self.spec.problem(path, error_id, what, why, hint)])

    def _describe(self, name: str, stage: StageSpec) -> None:
        path = ("stages", name, "uses")
        if stage.uses not in plugins.names("stages"):
            hint = plugins.suggest(stage.uses, plugins.names("stages"))
            self._fault(path, "unknown-stage", f"there is no stage kind '{stage.uses}'", "", hint)
            return
        try:
            self.described[name] = plugins.describe("stages", stage.uses)
        except plugins.PluginError as error:
            self._fault(path, "broken-plugin", str(error))
            return
        self.cells[name] = list(_cells(stage.matrix))

    def _ports(self, name: str) -> dict[str, Port]:
        declared: Mapping[str, str] = self.described[name].attributes.get("inputs", {})
        return {port: Port.parse(port, kind) for port, kind in declared.items()}

    def _outputs(self, name: str) -> dict[str, str]:
        return dict(self.described[name].attributes.get("outputs", {}))

    def _sources(self, name: str) -> dict[str, tuple[str, str]]:
        """(stage, output) for each connected port; mistakes are told."""
        ports, given = self._ports(name), self.spec.stages[name].inputs
        found: dict[str, tuple[str, str]] = {}
        for port, reference in given.items():
            path: Path = ("stages", name, "inputs", port)
            if port not in ports:
                uses = self.spec.stages[name].uses
                what, hint = f"stage kind {uses} has no input '{port}'", plugins.suggest(port, ports)
                self._fault(path, "unknown-input", what, "" if ports else "it takes none", hint)
            elif source := self._source(path, reference, ports[port]):
                found[port] = source
        for needed in ports.values():
            if not needed.optional and needed.name not in given and name not in self.spec.broken:
                what = f"stage {name} needs the input '{needed.name}' (a {needed.kind})"
                self._fault(("stages", name), "missing-input", what, "", self._offer(needed))
        return {port: found[port] for port in ports if port in found}

    def _source(self, path: Path, reference: str, port: Port) -> tuple[str, str] | None:
        stage, _, output = reference.partition(".")
        if stage not in self.spec.stages:
            hint = plugins.suggest(stage, self.spec.stages)
            self._fault(path, "unknown-reference", f"there is no stage '{stage}'", "", hint)
            return None
        if stage not in self.described:
            return None
        outputs = self._outputs(stage)
        output = output or next(iter(outputs), "")
        if output not in outputs:
            what = f"stage {stage} has no output '{output}'" if output else f"stage {stage} has no outputs"
            self._fault(path, "unknown-output", what, "", plugins.suggest(output, outputs))
            return None
        if outputs[output] != port.kind:
            what = f"input '{port.name}' takes a {port.kind}, and {reference} is a {outputs[output]}"
            self._fault(path, "wrong-kind", what, "", self._offer(port))
            return None
        return stage, output

    def _offer(self, port: Port) -> str:
        makers = [name for name in self.described if port.kind in self._outputs(name).values()]
        return f"write `inputs: {{{port.name}: {makers[0]}}}`" if makers else f"no stage here makes a {port.kind}"

    def _order(self, sources: Mapping[str, Mapping[str, tuple[str, str]]]) -> list[str]:
        """Stages with producers first, otherwise in the order written. A cycle is told."""
        needs = {name: {stage for stage, _ in found.values()} for name, found in sources.items()}
        order: list[str] = []
        while len(order) < len(needs):
            ready = [name for name in needs if name not in order and needs[name] <= set(order)]
            if not ready:
                cycle = _cycle({name: need for name, need in needs.items() if name not in order})
                path = ("stages", cycle[0], "inputs")
                self._fault(path, "cycle", f"stages wait for each other: {' -> '.join(cycle)}", "", "break one input")
                return order
            order.append(ready[0])
        return order

    def _step(self, name: str, cell: dict[str, Any], sources: Mapping[str, tuple[str, str]]) -> Step | None:
        spec, description = self.spec.stages[name], self.described[name]
        params, seed = dict(spec.with_), int(cell.get("seed", self.spec.seed))
        for axis, value in cell.items():
            if axis != "seed":
                params = _assigned(params, axis.split("."), value)
        faults = plugins.check("stages", spec.uses, params, ("stages", name, "with"))
        self._tell(self.spec.problem(f.path, f.id, f.what, f.why, f.hint) for f in faults)
        inputs = self._inputs(name, cell, sources)
        if faults or inputs is None:
            return None
        attributes = description.attributes
        return Step(
            id=_instance(name, cell),
            name=name,
            uses=spec.uses,
            cell=cell,
            stage=plugins.build("stages", spec.uses, params),
            params=plugins.complete("stages", spec.uses, params),
            inputs=inputs,
            ports=self._ports(name),
            outputs=self._outputs(name),
            seed=seed,
            scale=Scale(**vars(spec.scale)),
            retry=spec.retry,
            timeout_s=spec.timeout_s,
            version=int(attributes.get("version", 1)),
            packages=tuple(attributes.get("packages", ())),
            extends=attributes.get("extends"),
            tracks=bool(attributes.get("tracks")),
            ahead=tuple(attributes.get("ahead") or ()),
        )

    def _inputs(
        self, name: str, cell: Mapping[str, Any], sources: Mapping[str, tuple[str, str]]
    ) -> dict[str, tuple[Source, ...]] | None:
        """Instances behind each port: those whose cell agrees with this one on the axes they share."""
        ports = self._ports(name)
        found: dict[str, tuple[Source, ...]] = {}
        for port, (stage, output) in sources.items():
            agreeing = [c for c in self.cells[stage] if all(cell[axis] == c[axis] for axis in c if axis in cell)]
            if not agreeing or (len(agreeing) > 1 and not ports[port].many):
                path = ("stages", name, "inputs", port)
                what = f"input '{port}' takes one {ports[port].kind}, and {stage} has {len(agreeing)} instances for it"
                hint = f"give {name} the matrix of {stage}"
                self._fault(path, "fan-in", what, "", hint)
                return None
            found[port] = tuple(Source(_instance(stage, c), output) for c in agreeing)
        return found


def _cells(matrix: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _instance(name: str, cell: Mapping[str, Any]) -> str:
    """`train.seed-0`: usable as a file name and in fsspec globs."""
    parts = [f"{axis}-{value}".lower() for axis, value in cell.items()]
    return ".".join([name, *("".join(c if c.isalnum() or c in "_-." else "_" for c in part) for part in parts)])


def _assigned(params: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    below = params.get(head)
    return {**params, head: _assigned(below if isinstance(below, Mapping) else {}, rest, value) if rest else value}


def _cycle(needs: Mapping[str, set[str]]) -> list[str]:
    """One cycle: a, b, a."""
    seen = [next(iter(needs))]
    while True:
        following = next(need for need in needs[seen[-1]] if need in needs)
        if following in seen:
            return [*seen[seen.index(following) :], following]
        seen.append(following)


__all__ = ["Expansion", "Port", "Source", "Step", "complaints", "expand", "foresee"]
