"""A pipeline's YAML file, read, overridden and checked: every mistake in one pass, each where it stands.

`load` gives a `Spec`. It checks the frame: keys, types, ranges, names, credentials. What needs to know the stages (their
parameters, ports, cycles) is the plan's, which asks `Spec.problem` for the position of what it finds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property
from pathlib import Path as File
from typing import Any, NamedTuple

from orchestrator.credentials import Secret, hide, reveal, secrets, settle
from orchestrator.document import MAX_PROBLEMS, Document, Path, Place, read
from orchestrator.errors import Problem, SpecError
from orchestrator.frame import SPEC, Flaw, check
from orchestrator.overrides import apply_profile, apply_set, with_profile
from orchestrator.wording import quote, suggest

__all__ = ["Reference", "Retry", "Scale", "Secret", "Spec", "StageSpec", "load", "resolved", "reveal"]

MAX_CELLS = 1000


class Reference(NamedTuple):
    """Where an input comes from; `output` is None for the stage's default output."""

    stage: str
    output: str | None = None


@dataclass(frozen=True)
class Scale:
    """`scale` of a stage; the fields are those of `stage.Scale`."""

    num_workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    max_concurrent: int | None = None


@dataclass(frozen=True)
class Retry:
    """`retry` of a stage: the n-th retry waits min(backoff_s * backoff_factor ** (n - 1), max_backoff_s) seconds."""

    max_failures: int = 0
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    max_backoff_s: float = 60.0


@dataclass(frozen=True)
class StageSpec:
    """One entry of `stages`. `with_` holds the stage's own parameters as written, unchecked."""

    uses: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    with_: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale = Scale()
    retry: Retry = Retry()
    timeout_s: float | None = None
    matrix: Mapping[str, Sequence[bool | int | float | str]] = field(default_factory=dict)

    @property
    def references(self) -> dict[str, Reference]:
        """Each input port's stage and output."""
        return {port: Reference(*text.split(".")) for port, text in self.inputs.items()}


@dataclass(frozen=True)
class Spec:
    """A checked pipeline. `broken` names the stages in which `load(…, problems=…)` left something out."""

    name: str
    stages: Mapping[str, StageSpec]
    version: int = 1
    description: str = ""
    seed: int = 0
    storage: str = "runs"
    storage_options: Mapping[str, Any] = field(default_factory=dict)  # may hold Secrets: see `reveal`
    tracking: str | Secret | None = None
    timeout_s: float | None = None  # of a whole run
    profiles: tuple[str, ...] = ()
    profile: str | None = None
    sets: tuple[str, ...] = ()  # the values given beside the file, as they were typed
    broken: frozenset[str] = frozenset()
    document: Document = field(default_factory=lambda: Document("", []), repr=False, compare=False)

    def position(self, path: Path, *, key: bool = False) -> tuple[int, int, str]:
        """1-based line and column of a value (of its key), and the source line; line 0 where the command line gave it."""
        place = self.document.place(path, key=key)
        return place.line, place.col, self.document.source(place.line)

    def problem(self, path: Path, error_id: str, what: str, why: str = "", hint: str = "") -> Problem:
        """A mistake at a path (`("stages", "train", "with", "lr")`), at its key where the key is what is wrong."""
        key = error_id.startswith("missing-") or error_id == "unknown-key"
        if error_id.startswith("unknown-") and not isinstance(self._value(path), str):
            key = True
        return self.document.problem(path, error_id, what, why, hint, key=key)

    def redact(self, text: str) -> str:
        """`text` with the value of every secret of this spec replaced by `***`."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def to_json(self) -> dict[str, Any]:
        """The spec after overrides and defaults, secrets hidden: for records and `--json`."""
        plain = {each.name: getattr(self, each.name) for each in dataclass_fields(self)}
        for left_out in ("document", "broken", "stages", "sets"):
            del plain[left_out]
        stages = {name: _stage_json(stage) for name, stage in self.stages.items()}
        return {**hide(plain), "stages": stages}

    @cached_property
    def _secrets(self) -> list[str]:
        found = {secret.reveal() for secret in secrets({"options": self.storage_options, "tracking": self.tracking})}
        return sorted((text for text in found if len(text) > 3), key=len, reverse=True)

    def _value(self, path: Path) -> Any:
        value = self.document.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def load(
    path: str | File,
    *,
    sets: Sequence[str] = (),
    profile: str | None = None,
    storage: str | None = None,
    problems: list[Problem] | None = None,
) -> Spec:
    """Read and check a spec. First the profile applies, then `sets` ("a.b.c=value"), then `storage`.

    Raises SpecError with every problem. Where `problems` is given they are added to it instead, and the spec without its
    faulty parts is returned, so that the plan can go on and tell of everything at once; only a file that is no YAML
    mapping still raises.
    """
    document = read(path)
    if not isinstance(document.value, dict):
        what = "the spec is empty" if document.value is None else f"a spec is a mapping, not {quote(document.value)}"
        raise SpecError([*document.problems, document.problem((), "wrong-type", what, "", "see `orchestrate schema`")])
    _override(document, sets, profile, storage)
    settle(document)
    flaws = list(check(document.value, SPEC))
    told = [*document.problems, *(_told(document, flaw) for flaw in flaws if flaw.path not in document.refused)]
    flaws += [Flaw(path, "", "", drop=path) for path in document.refused]
    _drop(document, flaws)
    told += _check_matrices(document)
    told += _check_tracking(document)
    told = sorted(dict.fromkeys(told), key=lambda problem: (problem.line or math.inf, problem.col))[:MAX_PROBLEMS]
    if told and problems is None:
        raise SpecError(told)
    if problems is not None:
        problems.extend(told)
    return replace(_build(document, flaws, profile), sets=tuple(sets))


def resolved(path: str | File, *, sets: Sequence[str] = (), profile: str | None = None) -> dict[str, Any]:
    """A spec's value with its profile and `sets` applied, references to credentials as they were written.

    For another machine to load. Only after `load` has found no mistake.
    """
    document = read(path)
    _override(document, sets, profile, None)
    return {key: value for key, value in document.value.items() if key != "profiles"}


def _override(document: Document, sets: Sequence[str], profile: str | None, storage: str | None) -> None:
    """Apply the profile, `--set` and `--storage`; check the profiles that are not applied."""
    profiles = document.value.get("profiles")
    names = list(profiles) if isinstance(profiles, dict) else []
    before = set(check(document.value, SPEC)) if names else set()
    for name in names:
        if name != profile:
            trial = with_profile(document, name)
            flaws = [flaw for flaw in check(trial.value, SPEC) if flaw not in before]
            document.problems += [*trial.problems, *(_told(trial, flaw) for flaw in flaws)]
    if profile is not None and profile in names:
        apply_profile(document, profile)
    elif profile is not None:
        hint = suggest(profile, names) or "the spec has no profiles"
        what = f"there is no profile {quote(profile)}"
        document.problems.append(Problem("unknown-profile", what, "", hint, file=f"--profile {quote(profile)}"))
    for text in sets:
        apply_set(document, text)
    if storage is not None:
        at = Place(0, 0, "--storage")
        document.put(("storage",), storage, {(): at}, {(): at})


def _told(document: Document, flaw: Flaw) -> Problem:
    return document.problem(flaw.path, flaw.error_id, flaw.what, flaw.why, flaw.hint, key=flaw.key)


def _drop(document: Document, flaws: Sequence[Flaw]) -> None:
    """Leave faulty parts out: a key, or the list that holds a faulty item."""
    for flaw in flaws:
        path = flaw.drop or ()
        numbers = [i for i, part in enumerate(path) if isinstance(part, int)]
        path = path[: numbers[0]] if numbers else path
        parent: Any = document.value
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if path and isinstance(parent, dict):
            parent.pop(path[-1], None)
    stages = document.value.get("stages") or {}
    for name in [name for name, stage in stages.items() if "uses" not in stage]:
        del stages[name]


def _check_matrices(document: Document) -> list[Problem]:
    found = []
    for name, stage in (document.value.get("stages") or {}).items():
        cells = 1
        for axis, values in (stage.get("matrix") or {}).items():
            path: Path = ("stages", name, "matrix", axis)
            cells *= len(values)
            spelled = [quote(value) for value in values]
            for i, value in enumerate(spelled):
                if value in spelled[:i]:
                    found.append(document.problem((*path, i), "duplicate-cell", f"`{axis}` has {value} twice"))
            if axis == "seed" and not all(type(value) is int and value >= 0 for value in values):
                found.append(document.problem(path, "wrong-type", "`seed` takes integers of at least 0"))
        if cells > MAX_CELLS:
            what = f"the matrix of {name} has {cells} cells, more than {MAX_CELLS}"
            found.append(document.problem(("stages", name, "matrix"), "too-many-cells", what, key=True))
    return found


def _check_tracking(document: Document) -> list[Problem]:
    """Without `tracking` MLflow's database lies in the storage, which then has to be local."""
    storage = document.value.get("storage") or "runs"
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)(://|::)", storage)
    if not scheme or scheme[1] in ("file", "local") or document.value.get("tracking"):
        return []
    what = f"`tracking` is required: the storage is remote ({scheme[1]})"
    why = "MLflow's own database can only lie in local storage"
    return [
        document.problem(
            ("storage",), "missing-tracking", what, why, "add `tracking: sqlite:///mlflow.db`, or a server"
        )
    ]


def _build(document: Document, flaws: Sequence[Flaw], profile: str | None) -> Spec:
    value = document.value
    broken = frozenset(str(flaw.path[1]) for flaw in flaws if len(flaw.path) > 1 and flaw.path[0] == "stages")
    return Spec(
        name=value.get("name", "unnamed"),
        stages={name: _build_stage(stage) for name, stage in (value.get("stages") or {}).items()},
        description=value.get("description") or "",
        seed=value.get("seed", 0),
        storage=value.get("storage", "runs"),
        storage_options=value.get("storage_options") or {},
        tracking=value.get("tracking"),
        timeout_s=value.get("timeout_s"),
        profiles=tuple(value.get("profiles") or ()),
        profile=profile,
        broken=broken,
        document=document,
    )


def _build_stage(value: dict[str, Any]) -> StageSpec:
    given: dict[str, Any] = {key: item for key, item in value.items() if item is not None}
    if "with" in given:
        given["with_"] = given.pop("with")
    if "scale" in given:
        given["scale"] = Scale(**_numbers(given["scale"], Scale))
    if "retry" in given:
        given["retry"] = Retry(**_numbers(given["retry"], Retry))
    return StageSpec(**given)


def _numbers(value: dict[str, Any], cls: type) -> dict[str, Any]:
    """1 and 1.0 are one value where a field is a float."""
    return {key: float(item) if isinstance(getattr(cls, key), float) else item for key, item in value.items()}


def _stage_json(stage: StageSpec) -> dict[str, Any]:
    plain = {each.name.rstrip("_"): getattr(stage, each.name) for each in dataclass_fields(stage)}
    return {**hide(plain), "scale": dict(vars(stage.scale)), "retry": dict(vars(stage.retry))}
