"""What a run would do: each step in order, run or cached, and why. Reads the storage, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator import keys, source
from orchestrator.artifacts import Artifact, ArtifactStore, canonical, digest_json
from orchestrator.cache import Cache, Entry
from orchestrator.errors import BadInput, Problem, SpecError
from orchestrator.files import redact
from orchestrator.log import Log, State
from orchestrator.spec import Spec, reveal
from orchestrator.stage import Complaint, Facts, Foresight
from orchestrator.steps import Expansion, Step, complaints, expand, foresee
from trainers import plugins

Choice = Literal["run", "cached", "unknown"]
NEVER = "never run"
SEARCH = "search"  # the artifact kind that decides parameters: what waits for it is unknown


@dataclass(frozen=True)
class Asked:
    """Which steps to repeat or leave out, by stage name or instance id."""

    force: tuple[str, ...] = ()
    from_: str | None = None
    until: str | None = None
    no_cache: bool = False
    verify: bool = False  # hash what is cached: bytes altered with their time kept are found


@dataclass
class Sealed:
    """A step whose inputs are known: its key and what went into it."""

    key: str
    ingredients: keys.Ingredients
    lineage: str
    foresight: Foresight


@dataclass
class PlannedStep:
    """A step and what will happen to it."""

    step: Step
    state: Choice
    reason: str
    forced: bool = False
    sealed: Sealed | None = None  # None while an input is unknown
    entry: Entry | None = None  # where a cached step comes from
    outputs: dict[str, Artifact] = field(default_factory=dict)  # of a cached step
    facts: dict[str, Facts] = field(default_factory=dict)  # by output: metadata, or what is foreseen
    notes: Sequence[str] = ()
    estimate_s: float | None = None  # what it took last time

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.step.id,
            "label": self.step.label,
            "uses": self.step.uses,
            "state": self.state,
            "reason": self.reason,
            "key": self.sealed.key if self.sealed else None,
            "outputs": {output: artifact.digest for output, artifact in self.outputs.items()},
            "inputs": {port: [s.step for s in sources] for port, sources in self.step.inputs.items()},
            "estimate_s": self.estimate_s,
            "notes": list(self.notes),
        }


@dataclass
class Plan:
    """Steps in running order. `steps` are those asked for; `until` leaves others out."""

    spec: Spec
    store: ArtifactStore
    log: Log
    asked: Asked
    steps: list[PlannedStep]
    verified: set[str] = field(default_factory=set)  # artifacts whose bytes were hashed

    @property
    def has_work(self) -> bool:
        return any(step.state != "cached" for step in self.steps)

    @property
    def digest(self) -> str:
        """Names a fully cached plan: the same for the same results."""
        return digest_json([[step.step.id, step.sealed.key if step.sealed else ""] for step in self.steps])

    def step(self, name: str) -> PlannedStep:
        """By instance id, label, or the stage's name where it has one instance. Raises BadInput."""
        found = [s for s in self.steps if name in (s.step.id, s.step.label)]
        found = found or [s for s in self.steps if s.step.name == name]
        if len(found) != 1:
            known = [s.step.id for s in found or self.steps]
            what = f"stage {name!r} has several instances" if found else f"there is no stage {name!r}"
            raise BadInput(what, hint=plugins.suggest(name, known) if not found else f"one of {', '.join(known)}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.spec.name,
            "storage": self.store.url,
            "has_work": self.has_work,
            "steps": [step.to_json() for step in self.steps],
        }


def plan(spec: Spec, *, asked: Asked | None = None, problems: Sequence[Problem] = ()) -> Plan:
    """The plan of a spec. Raises SpecError (with `problems`, which `spec.load` found), BadInput, errors.Unavailable."""
    with plugins.steady():
        return _plan(spec, asked or Asked(), problems)


def _plan(spec: Spec, asked: Asked, problems: Sequence[Problem]) -> Plan:
    expansion = expand(spec, problems)
    chosen, forced = _chosen(expansion.steps, asked)
    store = ArtifactStore(spec.storage, reveal(spec.storage_options))
    store.format()
    log = Log(store.files, spec.name)
    found = Plan(spec, store, log, asked, [])
    desk = Desk(spec, store, log, expansion, found.verified if asked.verify else None)
    done: dict[str, PlannedStep] = {}
    for step in chosen:
        done[step.id] = desk.plan(step, done, forced=step.id in forced)
        found.steps.append(done[step.id])
    if desk.problems:
        raise SpecError(desk.problems)
    return found


class Desk:
    """Seals steps and looks them up; planning and execution decide by the same rules."""

    def __init__(
        self,
        spec: Spec,
        store: ArtifactStore,
        log: Log,
        expansion: Expansion | None = None,
        verified: set[str] | None = None,
    ) -> None:
        """`verified` collects what was hashed; None: bytes are not looked at before they are used."""
        self.spec = spec
        self.verified = verified
        self.store = store
        self.log = log
        self.cache = Cache(store)
        self.expansion = expansion or Expansion([])
        self.problems: list[Problem] = []
        self._sources: dict[tuple[str, ...], dict[str, str]] = {}
        self._outside: dict[str, dict[str, Any]] = {}

    def seal(self, step: Step, outputs: Mapping[str, Mapping[str, Artifact]], *, forced: bool = False) -> Sealed:
        """The key of a step whose producers' artifacts are all known. Raises SpecError when they do not suit it."""
        gathered = step.gather(outputs)
        facts = {name: {o: a.metadata for o, a in made.items()} for name, made in outputs.items()}
        foresight = foresee(step, facts)
        if foresight.complaints:
            raise SpecError(complaints(self.spec, step.name, foresight.complaints))
        inputs = {
            port: [a.digest for a in (found if isinstance(found, list) else [found])]
            for port, found in gathered.items()
        }
        parts = self._ingredients(step, foresight, inputs)
        key = keys.key(parts)
        generation = self.log.state().counts.get(key, 0) if forced else 0
        return Sealed(key, parts, keys.lineage(parts, step.extends, generation), foresight)

    def lookup(self, step: Step, sealed: Sealed) -> tuple[Entry | None, dict[str, Artifact], str]:
        """The usable result of a key, or why there is none ("" when it was never computed)."""
        why = ""
        own = self.log.state().commits.get(step.id)
        for entry in (self.cache.get(sealed.key), _entry(own) if own and own["key"] == sealed.key else None):
            if entry is not None and set(entry.outputs) >= set(step.outputs):
                artifacts, lacking = self.cache.open(entry)
                lacking = lacking or self._altered(artifacts)
                if not lacking:
                    return entry, artifacts, ""
                why = why or lacking
        return None, {}, why

    def _altered(self, artifacts: Mapping[str, Artifact]) -> str:
        """Which artifact's bytes are not what they were, where that was asked for; they are quarantined."""
        if self.verified is None:
            return ""
        for output, artifact in artifacts.items():
            if artifact.digest not in self.verified and (names := self.store.verify(artifact)):
                return f"artifact {output} was altered ({', '.join(names[:3])})"
            self.verified.add(artifact.digest)
        return ""

    def reason(self, planned: PlannedStep, sealed: Sealed) -> str:
        """Why a step runs, now that its inputs are known; what was planned stands where they were known then."""
        if planned.forced or planned.sealed is not None:
            return planned.reason
        last = self.log.state().commits.get(planned.step.id)
        why = self._why(planned.step, sealed.ingredients, _entry(last) if last else None)
        return self._whence(planned.step, sealed, why)

    def plan(self, step: Step, done: Mapping[str, PlannedStep], *, forced: bool) -> PlannedStep:
        """What would happen to a step, after those before it."""
        state = self.log.state()
        last = _entry(state.commits.get(step.id))
        planned = PlannedStep(step, "run", "", forced, estimate_s=last.seconds if last else None)
        waiting = [done[name] for name in step.producers if done[name].state != "cached"]
        if waiting:
            self._wait(planned, waiting, done, last)
            return planned
        try:
            planned.sealed = self.seal(step, {name: done[name].outputs for name in step.producers}, forced=forced)
        except SpecError as error:
            self.problems += [problem for problem in error.problems if problem not in self.problems]
            return planned
        self._settle(planned, state, last)
        return planned

    def _settle(self, planned: PlannedStep, state: State, last: Entry | None) -> None:
        sealed = planned.sealed
        assert sealed is not None
        planned.notes = sealed.foresight.notes
        entry, artifacts, why = self.lookup(planned.step, sealed)
        if planned.forced:
            planned.reason = "forced"
        elif entry is not None:
            planned.state, planned.entry, planned.outputs, planned.estimate_s = (
                "cached",
                entry,
                artifacts,
                entry.seconds,
            )
            planned.facts = {output: artifact.metadata for output, artifact in artifacts.items()}
            planned.reason = f"from run {entry.run}"
            return
        else:
            planned.reason = self._whence(
                planned.step, sealed, why or self._why(planned.step, sealed.ingredients, last)
            )
            self._look_up(planned.step)
            if sealed.key in state.verdicts:
                verdict = state.verdicts[sealed.key]
                planned.reason = f"{verdict['kind']} in run {verdict['run']}, not tried unchanged"
        planned.facts = {o: dict(sealed.foresight.outputs.get(o, {})) for o in planned.step.outputs}

    def _wait(
        self, planned: PlannedStep, waiting: Sequence[PlannedStep], done: Mapping[str, PlannedStep], last: Entry | None
    ) -> None:
        """A step that waits for others: what can be said already."""
        step = planned.step
        facts = {name: done[name].facts for name in step.producers}
        foresight = foresee(step, facts)
        self._complain(step, foresight.complaints)
        self._look_up(step)
        planned.notes = foresight.notes
        planned.facts = {o: dict(foresight.outputs.get(o, {})) for o in step.outputs}
        unknown = [
            p for p in waiting if p.state == "unknown" or SEARCH in (p.step.outputs[o] for o in _used(step, p.step.id))
        ]
        if planned.forced:
            planned.reason = "forced"
        elif unknown:
            planned.state, planned.reason = "unknown", f"unknown until {_root(unknown[0], done).step.label}"
        elif last is None:
            planned.reason = NEVER
        else:
            ready = {p: s for p, s in step.inputs.items() if all(done[x.step].state == "cached" for x in s)}
            inputs = {p: [done[x.step].outputs[x.output].digest for x in s] for p, s in ready.items()}
            parts = self._ingredients(step, foresight, inputs)
            late = [port for port in step.inputs if port not in ready]
            maker = {port: step.inputs[port][0].step for port in step.inputs}
            old = {**last.ingredients, "inputs": {p: d for p, d in last.ingredients["inputs"].items() if p not in late}}
            found = keys.differences(old, parts, producers=maker)
            planned.reason = keys.sentence([*found, *(f"input {p} changes (stage {maker[p]})" for p in late)])

    def _look_up(self, step: Step) -> None:
        """Complain of what a step that has to run names in the store, and is not there."""
        self._complain(step, step.stage.look_up(self.store))

    def _complain(self, step: Step, complained: Sequence[Complaint]) -> None:
        found = complaints(self.spec, step.name, complained)
        self.problems += [problem for problem in found if problem not in self.problems]

    def _why(self, step: Step, parts: keys.Ingredients, last: Entry | None) -> str:
        if last is None:
            return NEVER
        maker = {port: sources[0].step for port, sources in step.inputs.items()}
        found = keys.differences(last.ingredients, parts, producers=maker)
        return keys.sentence(found) or "its result is missing"

    def _whence(self, step: Step, sealed: Sealed, why: str) -> str:
        """The reason; where it never ended but stands at a checkpoint, from which step it goes on."""
        if why != NEVER:
            return why
        from orchestrator.estimates import reached

        at = reached(step, self.store, sealed.lineage)
        return f"interrupted at step {at}, goes on from there" if at else why

    def _ingredients(self, step: Step, foresight: Foresight, inputs: Mapping[str, Sequence[str]]) -> keys.Ingredients:
        return keys.ingredients(
            uses=step.uses,
            version=step.version,
            params=json.loads(canonical(step.params if foresight.params is None else foresight.params)),
            inputs=inputs,
            seed=step.seed,
            source=self._source(step, foresight),
            packages=_packages(step, foresight),
            gpus=step.scale.gpus_per_worker > 0,
            outside=self._fingerprint(step),
            tracking=_where(self.spec) if step.tracks else None,
        )

    def _fingerprint(self, step: Step) -> dict[str, Any]:
        """What the step reads from outside of the store, asked for once. Raises BadInput, Unavailable."""
        if step.id not in self._outside:
            self._outside[step.id] = json.loads(canonical(step.stage.fingerprint()))
        return self._outside[step.id]

    def settle(self, step: Step) -> None:
        """After a run: raises BadInput where what the step reads from outside is no more what its key says."""
        if step.id in self._outside and self._outside[step.id] != json.loads(canonical(step.stage.fingerprint())):
            hint = "run again once nothing writes to them"
            raise BadInput(f"the files that stage {step.id} reads changed while it ran", hint=hint)

    def _source(self, step: Step, foresight: Foresight) -> dict[str, str]:
        """What the stage and the plugins that it names reach."""
        named = {("stages", step.uses), *foresight.plugins}
        modules = tuple(sorted(f"{plugins.KINDS[kind]}.{name}" for kind, name in named))
        if modules not in self._sources:
            self._sources[modules] = source.digests(modules)
        return self._sources[modules]


def _packages(step: Step, foresight: Foresight) -> list[str]:
    """Distributions that the stage and the plugins that it names compute with."""
    named = [plugins.describe(kind, name).attributes.get("packages", ()) for kind, name in foresight.plugins]
    return sorted({*step.packages, *(package for packages in named for package in packages)})


def _where(spec: Spec) -> str:
    """The spec's `tracking` without credentials, "" for the default."""
    given = reveal(spec.tracking)
    return redact(spec.redact(given), ()) if given else ""


def _used(step: Step, producer: str) -> set[str]:
    return {s.output for sources in step.inputs.values() for s in sources if s.step == producer}


def _root(planned: PlannedStep, done: Mapping[str, PlannedStep]) -> PlannedStep:
    """The search that an unknown step waits for."""
    while planned.state == "unknown":
        waiting = [done[name] for name in planned.step.producers if done[name].state != "cached"]
        unknown = [p for p in waiting if p.state == "unknown"]
        searches = [p for p in waiting if SEARCH in p.step.outputs.values()]
        planned = (unknown or searches or waiting)[0]
    return planned


def _entry(commit: Mapping[str, Any] | None) -> Entry | None:
    if commit is None:
        return None
    try:
        return Entry.from_json(commit)
    except TypeError:
        return None


def _chosen(steps: Sequence[Step], asked: Asked) -> tuple[list[Step], set[str]]:
    """The steps asked for, and the ids of those to repeat."""
    everything = {step.id: step for step in steps}
    forced = {step.id for step in steps} if asked.no_cache else set()
    for name in asked.force:
        forced |= {step.id for step in _named(steps, name, "--force")}
    if asked.from_ is not None:
        first = {step.id for step in _named(steps, asked.from_, "--from")}
        for step in steps:  # in running order: what follows comes later
            if first & set(step.producers):
                first.add(step.id)
        forced |= first
    if asked.until is None:
        return list(steps), forced
    wanted: set[str] = set()
    pending: list[str] = [step.id for step in _named(steps, asked.until, "--until")]
    while pending:
        name = pending.pop()
        wanted.add(name)
        pending += [producer for producer in everything[name].producers if producer not in wanted]
    return [step for step in steps if step.id in wanted], forced & wanted


def _named(steps: Iterable[Step], name: str, option: str) -> list[Step]:
    steps = list(steps)
    found = [step for step in steps if name in (step.id, step.label)] or [s for s in steps if s.name == name]
    if not found:
        hint = plugins.suggest(name, [step.id for step in steps])
        raise BadInput(f"{option} {name}: there is no such stage", hint=hint)
    return found


__all__ = ["Asked", "Desk", "Plan", "PlannedStep", "Sealed", "plan"]
