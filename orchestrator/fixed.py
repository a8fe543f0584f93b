"""A spec in which what a search found is written out: the search is gone, and the training has the configuration by itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import outcomes
from orchestrator.errors import BadInput, SpecError
from orchestrator.manuscript import Manuscript, Unwritable

if TYPE_CHECKING:
    from orchestrator.outcomes import SearchResults
    from orchestrator.runs import Run
    from orchestrator.steps import Step

CREDENTIALS = ("storage_options", "tracking")  # which a record holds hidden
HIDDEN = "***"
PORT = "config"  # through which a stage takes a search's configuration


@dataclass
class Fixed:
    """The new spec: its text, and what a reader should know of it."""

    text: str
    notes: list[str] = field(default_factory=list)


@dataclass
class _Edits:
    """What is taken out and what is put in, done to the values and, where that is possible, to the author's text."""

    value: dict[str, Any]
    manuscript: Manuscript | None
    notes: list[str] = field(default_factory=list)
    why: str = ""  # the text cannot be kept

    def remove(self, *path: str) -> None:
        parents = [self.value]
        for part in path[:-1]:
            parents.append(parents[-1][part])
        for parent, part in zip(reversed(parents), reversed(path), strict=True):
            del parent[part]
            if parent:
                break
        self._write(lambda paper: paper.remove(path))

    def put(self, path: tuple[str, ...], value: Any, note: str = "") -> None:
        inside = self.value
        for part in path[:-1]:
            if inside.get(part) is None:
                inside[part] = {}
            inside = inside[part]
        inside[path[-1]] = deepcopy(value)
        self._write(lambda paper: paper.put(path, value, note=note))

    def _write(self, edit: Any) -> None:
        if self.manuscript is None:
            return
        try:
            edit(self.manuscript)
        except (Unwritable, KeyError) as error:
            self.manuscript, self.why = None, str(error)


def fixed(run: Run, search: SearchResults, index: int) -> Fixed:
    """The run's spec with trial `index` of a search in place of the search.

    The author's file is changed where it still says what was run; else the recorded spec is written out. Raises BadInput
    where no stage takes the search's configuration, SpecError where the new spec is none.
    """
    trial = search.trial(index)
    if not trial.config:
        raise BadInput(f"trial {index} of {search.stage} has no configuration")
    name = run.record.stage(search.stage).name
    edits = _original(run)
    takers = _takers(edits.value, name)
    if not any(port == PORT for _, port in takers):
        raise BadInput(f"no stage takes the configuration of {name}", hint=f"a train stage does: `{PORT}: {name}`")
    score = "" if trial.score is None else f", {search.goal.name} {trial.score:.6g} at step {trial.steps}"
    note = f"Trial {index} of {search.stage}, run {run.run_id}{score}."
    winner = winning(trial.config)
    for stage, port in takers:
        edits.remove("stages", stage, "inputs", port)
        if port == PORT:
            _write_out(edits, stage, winner, note)
        else:
            edits.notes.append(f"{stage} no longer takes {name} (its port {port})")
    trained = [stage for stage, port in takers if port == PORT]
    for gone in _drop(edits, name, outcomes.searching_stages(run)):
        _clear_profiles(edits, gone, trained, set(winner))
    if trial.status in outcomes.BAD:
        edits.notes.append(f"trial {index} {trial.status}: {trial.error}")
    text = _text(edits)
    _check(text, run, takers, winner)
    return Fixed(text, edits.notes)


def winning(config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's configuration without what was the trial's budget."""
    from orchestrator.stages.tune import BUDGET

    return {key: value for key, value in config.items() if key not in BUDGET}


def _takers(spec: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    """(stage, port) of every input that comes from a stage."""
    return [
        (stage, port)
        for stage, body in spec["stages"].items()
        for port, source in (body.get("inputs") or {}).items()
        if str(source).split(".")[0] == name
    ]


def _drop(edits: _Edits, name: str, searching: Collection[str]) -> list[str]:
    """Take a search out, and those before it that only it went on from; returns their names."""
    body = edits.value["stages"][name]
    sources = {str(source).split(".")[0] for source in (body.get("inputs") or {}).values()}
    edits.remove("stages", name)
    gone = [name]
    for source in sorted(sources & set(searching)):
        if not _takers(edits.value, source):
            edits.notes.append(f"{source} is taken out too: only {name} went on from it")
            gone += _drop(edits, source, searching)
    return gone


def _write_out(edits: _Edits, stage: str, winner: Mapping[str, Any], note: str) -> None:
    """A stage's parameters: its own win over the search's."""
    from trainers import config

    body = edits.value["stages"][stage]
    own = body.get("with") or {}
    merged = {**own, **config.merge(winner, own)}  # the author's order first
    edits.put(("stages", stage, "with"), merged, note)


def _clear_profiles(edits: _Edits, name: str, trained: Sequence[str], keys: set[str]) -> None:
    """Profiles no longer name the search, nor replace what is fixed now."""
    for profile, entries in list((edits.value.get("profiles") or {}).items()):
        for text in list(entries or {}):
            parts = text.replace('"', "").split(".")
            whole = [("stages", stage) for stage in trained]
            overrides = any(
                tuple(parts[:2]) == path and parts[2:3] == ["with"] and (len(parts) == 3 or parts[3] in keys)
                for path in whole
            )
            if parts[:2] == ["stages", name] or overrides:
                edits.remove("profiles", profile, text)
                edits.notes.append(f"profile {profile} no longer sets {text}")


# --- the spec that was run ------------------------------------------------------------------------------------------------


def _original(run: Run) -> _Edits:
    """The author's file with the run's profile and `--set` written in, where it is still what was run; else the record."""
    from orchestrator import document, overrides
    from orchestrator import spec as specs

    record = run.record
    kept = _recorded(record.spec)
    lost = [
        f"`{key}` is left out: a record keeps no credentials"
        for key in CREDENTIALS
        if record.spec.get(key) and key not in kept
    ]
    try:
        text = Path(record.spec_file).read_text(encoding="utf-8")
        now = specs.load(record.spec_file, sets=record.sets, profile=record.profile, storage=record.spec.get("storage"))
        written = document.parse(text, record.spec_file)
    except (OSError, ValueError, SpecError):
        return _Edits(
            kept, None, [f"{record.spec_file} is not there any more: the spec is written out as it was run", *lost]
        )
    if _told(now.to_json()) != _told(record.spec):
        return _Edits(
            kept, None, [f"{record.spec_file} has changed since: the spec is written out as it was run", *lost]
        )
    edits = _Edits(deepcopy(written.value), Manuscript(text))
    applied = deepcopy(written)
    if record.profile is not None:
        overrides.apply_profile(applied, record.profile)
        edits.notes.append(f"the run's profile {record.profile} is written in")
    for one in record.sets:
        overrides.apply_set(applied, one)
    _adopt(edits, (), written.value, applied.value)
    if record.profile is not None:
        edits.remove("profiles", record.profile)
    return edits


def _adopt(edits: _Edits, path: tuple[str, ...], old: Any, new: Any) -> None:
    """Write in what overrides changed, as deep as mappings go."""
    if isinstance(old, dict) and isinstance(new, dict) and old and new and set(old) <= set(new):
        for key in new:
            if key not in old or old[key] != new[key]:
                _adopt(edits, (*path, key), old.get(key), new[key])
    elif path:
        edits.put(path, new)


def _recorded(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A run's recorded spec as a file would have it: without what is empty or a default of the frame."""
    empty: tuple[Any, ...] = (None, "", [], {})
    left_out = (
        "profile",
        "profiles",
        *(key for key in CREDENTIALS if HIDDEN in json.dumps(spec.get(key), default=str)),
    )
    found = {key: value for key, value in deepcopy(dict(spec)).items() if key not in left_out and value not in empty}
    stages = {}
    for name, body in spec["stages"].items():
        stages[name] = {key: value for key, value in body.items() if value not in empty}
        for part in ("scale", "retry"):
            default = _defaults(part)
            changed = {key: item for key, item in (body.get(part) or {}).items() if item != default.get(key)}
            stages[name] = {key: value for key, value in stages[name].items() if key != part}
            if changed:
                stages[name][part] = changed
    return {**found, "stages": stages}


def _defaults(part: str) -> dict[str, Any]:
    from orchestrator.spec import Retry, Scale

    return dict(vars({"scale": Scale, "retry": Retry}[part]()))


def _told(spec: Mapping[str, Any]) -> Any:
    """What two specs are compared by."""
    left_out = ("profile", "profiles", "storage", "tracking", "storage_options", "description")
    return json.loads(json.dumps({key: value for key, value in spec.items() if key not in left_out}, default=str))


# --- the spec that is written ---------------------------------------------------------------------------------------------


def _text(edits: _Edits) -> str:
    """The author's text where it says what was meant, else the values as YAML."""
    from orchestrator import document

    if edits.manuscript is not None:
        try:
            if _same(document.parse(edits.manuscript.text, "spec").value, edits.value):
                return edits.manuscript.text
            edits.why = "it is written in an unusual way"
        except SpecError:
            edits.why = "it uses aliases"
    if edits.why:
        edits.notes.append(f"comments are left out: the spec cannot be changed in place ({edits.why})")
    import yaml

    return str(yaml.safe_dump(edits.value, sort_keys=False, allow_unicode=True, width=110))


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@contextmanager
def draft(text: str) -> Iterator[str]:
    """The text in a file of its own, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fixed.yaml"
        file.write_text(text, encoding="utf-8")
        yield str(file)


def _check(text: str, run: Run, takers: Sequence[tuple[str, str]], winner: Mapping[str, Any]) -> None:
    """The new spec is valid, and its trainings have exactly the search's configuration under their own values."""
    from orchestrator import spec as specs
    from orchestrator.steps import expand
    from trainers import config, plugins

    with draft(text) as file, plugins.steady():
        steps = expand(specs.load(file)).steps
    before = {name: stage.get("with") or {} for name, stage in run.record.spec["stages"].items()}
    for step in steps:
        if (step.name, PORT) in takers:
            expected = config.merge(winner, before[step.name])
            got = _given(step)
            if not _same(config.spelled(expected), config.spelled(got)):
                raise AssertionError(f"{step.name} would train with {got}, not {expected}")


def _given(step: Step) -> dict[str, Any]:
    """A stage's parameters that are set."""
    return {name: value for name, value in step.params.items() if value is not None}


def refuse(path: str, *, force: bool) -> None:
    """Raises BadInput where there is a file and `force` is not given, and where the folder is not there."""
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise BadInput(f"{target} is a directory" if target.is_dir() else f"there is no folder {target.parent}")
    if target.exists() and not force:
        raise BadInput(f"{target} is there already", hint="--force overwrites it")


def write(path: str, text: str, *, force: bool = False) -> None:
    """Write a file that is there whole or not at all. Raises BadInput."""
    refuse(path, force=force)
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as out:
            out.write(text)
        Path(out.name).chmod(0o644)
        Path(out.name).replace(target)
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error


__all__ = ["Fixed", "draft", "fixed", "refuse", "winning", "write"]
