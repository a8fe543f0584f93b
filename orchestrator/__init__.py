"""Pipelines that train GANs, from one YAML file to a registered, evaluated model.

    import orchestrator

    run = orchestrator.run("pipelines/dcgan.yaml")
    images = orchestrator.load("runs", run.run_id).sample(16)

What the command line does is a function here first. Importing this package imports nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.events import Listener
    from orchestrator.loaded import LoadedRun
    from orchestrator.planning import Plan
    from orchestrator.runs import Run


def plan(
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    profile: str | None = None,
    storage: str | None = None,
    force: Sequence[str] = (),
    from_: str | None = None,
    until: str | None = None,
    no_cache: bool = False,
    verify: bool = False,
) -> Plan:
    """What `run` with the same arguments would do, and why: each step in order, run, cached or unknown.

    `sets` are texts like "stages.train.with.total_steps=4000"; `force` names stages to repeat; `from_` a stage to repeat
    with all that follows; `until` the last stage wanted; `verify` hashes what is cached and moves damaged files away.
    Reads the spec and the storage, changes nothing else. Raises errors.SpecError with every mistake, errors.BadInput,
    errors.Unavailable.
    """
    from orchestrator import planning
    from orchestrator import spec as specs
    from orchestrator.errors import Problem

    problems: list[Problem] = []
    spec = specs.load(path, sets=sets, profile=profile, storage=storage, problems=problems)
    asked = planning.Asked(tuple(force), from_, until, no_cache, verify)
    return planning.plan(spec, asked=asked, problems=problems)


def run(
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    profile: str | None = None,
    storage: str | None = None,
    force: Sequence[str] = (),
    from_: str | None = None,
    until: str | None = None,
    no_cache: bool = False,
    verify: bool = False,
    address: str | None = None,
    jobs: int = 1,
    wait_lease_s: float = 0.0,
    wait_nodes_s: float | None = None,
    verdict: str = "",
    listener: Listener | None = None,
) -> Run:
    """Run a pipeline, or go on with it: what is cached is not run again.

    Arguments as in `plan`; `address` joins a Ray cluster, `jobs` runs so many independent stages at once, `wait_lease_s`
    waits for another run of the pipeline, `wait_nodes_s` for the cluster to have room, `verdict` names the job whose
    verdict is stored at the end (`verdicts`), `listener` hears of the progress. Returns the run, also a failed one
    (`Run.status`, `Run.exit_code`, `Run.record.error`). Raises as `plan`, and errors.Busy.
    """
    from orchestrator import earlier
    from orchestrator.events import Listener

    planned = plan(
        path,
        sets=sets,
        profile=profile,
        storage=storage,
        force=force,
        from_=from_,
        until=until,
        no_cache=no_cache,
        verify=verify,
    )
    listener = listener or Listener()
    if (served := earlier.serve(planned, listener)) is not None:
        if verdict:
            from orchestrator import verdicts

            verdicts.write(planned.store, verdicts.of_run(verdict, served.record))
        return served
    from orchestrator.execute import Options, execute

    options = Options(jobs, address, wait_lease_s=wait_lease_s, wait_nodes_s=wait_nodes_s, verdict=verdict)
    return execute(planned, listener=listener, options=options)


def load(storage: str, run: str = "latest", *, stage: str | None = None) -> LoadedRun:
    """A run's model, ready to sample from.

    `run` is a run id, a pipeline's name (its newest run with a model) or "latest" of all; `stage` chooses where a run made
    several models. Raises errors.BadInput when there is none, errors.Unavailable.
    """
    from orchestrator import loaded

    return loaded.load(storage, run, stage=stage)


__all__ = ["load", "plan", "run"]
