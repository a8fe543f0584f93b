"""`orchestrate k8s …`: pipelines on Kubernetes, through KubeRay: render, check, submit, status, logs, debug, delete."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli import k8s_check, options
from orchestrator.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from orchestrator.kubernetes.client import Api
    from orchestrator.kubernetes.diagnosis import Diagnosis
    from orchestrator.kubernetes.render import Wish
    from orchestrator.kubernetes.standing import Outcome, State

F = TypeVar("F", bound=Callable[..., Any])
NAMESPACE = "gan-orchestrator"
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
OURS = {"app.kubernetes.io/managed-by": "orchestrate"}


class Steps(click.Group):
    """Subcommands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Steps, short_help="Pipelines on Kubernetes: render, submit, follow, explain.")
def command() -> None:
    """Run pipelines on a Kubernetes cluster with KubeRay 1.7.

    k8s/README.md says how to prepare a cluster. `render` and `check` need none; the others need the extra k8s
    (pip install 'gan-orchestrator[k8s]') and talk to the cluster of KUBECONFIG.

    \b
    orchestrate k8s render pipelines/dcgan.yaml --storage s3://bucket/runs -o job.yaml
    orchestrate k8s submit pipelines/dcgan.yaml --storage s3://bucket/runs
    orchestrate k8s debug

    \b
    Exit codes: 0 ok, 2 bad input (also what the server refuses as such), 4 no cluster, no permission, or timed out,
    6 a job of that name is there; submit ends with the code of the run, as `orchestrate run` does.
    """


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """An amount of memory: 512Mi, 8Gi."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(Mi|Gi|Ti)", value.strip())
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r} is no amount of memory; write 512Mi or 8Gi")
    return int(found[1]) * UNITS[found[2]]


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """LABEL=VALUE, several times."""
    pairs = [value.partition("=") for value in values]
    for key, sign, _ in pairs:
        if not key or not sign:
            raise click.BadParameter("write LABEL=VALUE")
    return {key: value for key, _, value in pairs}


def asked(function: F) -> F:
    """What may be asked for beside the spec."""
    for option in reversed(
        (
            click.option("--name", default="", metavar="NAME", help="Of the job; else the pipeline's."),
            click.option(
                "--image", default="", metavar="IMAGE", help="With this project in it. [gan-orchestrator:VERSION]"
            ),
            click.option(
                "--namespace", "-n", default=NAMESPACE, show_default=True, metavar="NAME", help="Where it runs."
            ),
            click.option(
                "--queue", default="", metavar="NAME", help="A Kueue queue that admits it; sizes are fixed then."
            ),
            click.option(
                "--workers", type=click.IntRange(0, 10_000), metavar="N", help="Pods that train, to begin with."
            ),
            click.option(
                "--max-workers", type=click.IntRange(1, 10_000), metavar="N", help="Let Ray add pods up to N."
            ),
            click.option("--gpus", type=click.IntRange(0, 64), metavar="N", help="GPUs of each pod."),
            click.option("--memory", callback=_bytes, metavar="SIZE", help="Of each pod that trains, as 8Gi."),
            click.option("--tracking", metavar="URI", help="MLflow; else the spec's, else http://mlflow:5000."),
            click.option(
                "--claim", default="runs", show_default=True, metavar="NAME", help="The volume of a local storage."
            ),
            click.option(
                "--deadline",
                type=click.IntRange(60),
                metavar="SECONDS",
                help="For all of it; else by `timeout_s`, or a week.",
            ),
            click.option(
                "--retries",
                type=click.IntRange(0, 100),
                default=3,
                show_default=True,
                help="New clusters after a failure.",
            ),
            click.option(
                "--node-selector", multiple=True, callback=_pairs, metavar="LABEL=VALUE", help="For pods that train."
            ),
            click.option(
                "--pull-secret", "pull_secrets", multiple=True, metavar="NAME", help="To pull the image with."
            ),
        )
    ):
        function = option(function)
    return options.pipeline(options.overrides(function))


def context(function: F) -> F:
    return click.option("--context", metavar="NAME", help="Of the kubeconfig; else its current one.")(function)


def namespace(function: F) -> F:
    return click.option(
        "--namespace", "-n", default=NAMESPACE, show_default=True, metavar="NAME", help="Where it runs."
    )(function)


def _wish(pipeline: str, given: dict[str, Any]) -> Wish:
    from orchestrator.kubernetes.render import Wish

    return Wish(pipeline, deadline_s=given.pop("deadline"), **given)


# --- render -----------------------------------------------------------------------------------------------------------


@command.command(short_help="A pipeline as YAML for kubectl. Needs no cluster.")
@asked
@click.option("--cluster", is_flag=True, help="A RayCluster that stays, instead of a RayJob.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Instead of stdout.")
def render(pipeline: str, output: str | None, **given: Any) -> None:
    """Write PIPELINE as Kubernetes documents: a ConfigMap with the resolved spec, and the RayJob that runs it.

    Pods and their sizes come from the spec's own `scale`: enough for every stage. The same input gives the same bytes.

    \b
    orchestrate k8s render pipelines/dcgan.yaml | kubectl apply --server-side -f -
    orchestrate k8s render pipelines/dcgan.yaml --profile gpu --storage s3://bucket/runs -o job.yaml

    Applied again after its job ended with exit 2, 3 or 5, the same documents end so at once: change --name.
    """
    from orchestrator.kubernetes.render import render as rendered

    found = rendered(_wish(pipeline, given))
    for note in found.notes:
        options.tell(f"note: {note}")
    if output is None:
        click.echo(found.text, nl=False)
        return
    try:
        Path(output).write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {output}: {(error.strerror or str(error)).lower()}") from None
    options.tell(f"wrote {output}; next: kubectl apply --server-side -f {output}")


command.add_command(k8s_check.command)

# --- submit -----------------------------------------------------------------------------------------------------------


@command.command(short_help="Submit a pipeline, follow it, exit as its run did.")
@asked
@context
@click.option(
    "--dry-run", type=click.Choice(["client", "server"]), help="client: print the documents; server: let it check them."
)
@click.option("--no-wait", is_flag=True, help="Do not follow it.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Follow no longer; the job goes on.")
@options.as_json
def submit(
    pipeline: str,
    context: str | None,
    dry_run: str | None,
    no_wait: bool,
    timeout: float | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Submit PIPELINE as a RayJob with a name of its own, print its log, and exit with the code of its run.

    Ctrl-C leaves it running and says how to follow it. A pod that is lost, or the whole cluster, is replaced, and the
    run goes on from what is stored; after a result that nothing would change it does not begin again.

    \b
    orchestrate k8s submit pipelines/dcgan.yaml --storage s3://bucket/runs --profile gpu --queue training
    orchestrate k8s submit pipelines/dcgan.yaml --dry-run=server

    \b
    Exit codes: that of the run (`orchestrate run --help`), and 2 what the server refuses, 4 no cluster, no permission,
    timed out or deleted, 6 the name is taken, 130 and 143 detached by a signal.
    """
    from orchestrator.kubernetes import submit as submitting
    from orchestrator.kubernetes.client import Api

    wish = _wish(pipeline, given)
    rendered = submitting.prepared(wish)
    for note in rendered.notes:
        options.tell(f"note: {note}")
    if dry_run == "client":
        click.echo(rendered.text, nl=False)
        return 0
    api = Api(wish.namespace, context=context)
    state = submitting.submit(api, rendered, dry_run=dry_run == "server")
    if dry_run == "server":
        options.tell(f"{api.server} would take it; nothing was made")
        return 0
    options.tell(f"submitted RayJob {rendered.name} to {wish.namespace}")
    if no_wait:
        _tell_state(state, None, as_json, next_="logs -f")
        return 0
    return _followed(api, rendered.name, _options_of(wish), timeout, as_json)


def _options_of(wish: Wish) -> Mapping[str, Any] | None:
    """The storage's own options, as far as this machine has the variables that they name."""
    from orchestrator.spec import load, reveal

    spec = load(wish.pipeline, sets=wish.sets, profile=wish.profile, storage=wish.storage, problems=[])
    found: dict[str, Any] = reveal(spec.storage_options)
    return found or None


def _followed(
    api: Api, name: str, storage_options: Mapping[str, Any] | None, timeout: float | None, as_json: bool
) -> int:
    """Follow a job to its end; the exit code that belongs to it. A signal detaches."""
    from orchestrator.kubernetes import standing
    from orchestrator.kubernetes import submit as submitting

    state = standing.read(api.get("RayJob", name))
    where = "" if api.namespace == NAMESPACE else f" -n {api.namespace}"
    try:
        found = submitting.follow(api, name, say=options.tell, line=options.tell, timeout_s=timeout)
    except KeyboardInterrupt as signalled:
        options.tell(f"detached; {name} goes on. Follow it with: orchestrate k8s logs -f {name}{where}")
        return 128 + getattr(signalled, "signum", 2)
    if found.timed_out:
        raise Unavailable(
            f"{name} has not ended after {timeout:g} s; it goes on",
            hint=f"follow it with `orchestrate k8s logs -f {name}{where}`, or see `orchestrate k8s debug {name}{where}`",
        )
    stored = submitting.stored_verdict(state.storage, state.job, options=storage_options, say=options.tell)
    outcome = submitting.result(found.state, name, stored, found.told)
    _tell_state(found.state or state, outcome, as_json)
    if outcome.exit_code and not as_json:
        options.tell(f"more: orchestrate k8s debug {name}{where}")
    return outcome.exit_code


def _tell_state(state: State, outcome: Outcome | None, as_json: bool, next_: str = "") -> None:
    from dataclasses import asdict

    from orchestrator.verdicts import to_json

    if as_json:
        values = {**asdict(state), "state": state.word}
        if outcome is not None:
            values |= {"exit_code": outcome.exit_code, "why": outcome.why, "verdict": to_json(outcome.verdict)}
        options.emit(**values)
        return
    color = {"succeeded": "green", "failed": "red", "stopped": "red"}.get(state.word)
    said = f": {outcome.why}" if outcome is not None and outcome.why != state.word else ""
    options.echo(f"{state.name} {click.style(state.word, fg=color, bold=True)}{said}")
    if next_:
        where = "" if state.namespace in ("", NAMESPACE) else f" -n {state.namespace}"
        options.tell(f"follow it with: orchestrate k8s {next_} {state.name}{where}")


# --- what runs --------------------------------------------------------------------------------------------------------


@command.command(short_help="The jobs, or how one stands.")
@click.argument("name", required=False)
@namespace
@context
@options.as_json
def status(name: str | None, namespace: str, context: str | None, as_json: bool) -> int:
    """Show every job that this project made, newest first; with NAME how that one stands, and its verdict."""
    from dataclasses import asdict

    from orchestrator.kubernetes import standing
    from orchestrator.kubernetes import submit as submitting
    from orchestrator.kubernetes.client import Api

    api = Api(namespace, context=context)
    if name is not None:
        state = standing.read(api.get("RayJob", name))
        stored = submitting.stored_verdict(state.storage, state.job, say=options.tell) if state.ended else None
        _tell_state(state, standing.outcome(state, stored) if state.ended else None, as_json)
        return 0
    states = _states(api)
    if as_json:
        options.emit(jobs=[{**asdict(state), "state": state.word} for state in states])
    elif states:
        rows = [(one.name, one.word, one.created, one.reason or one.message) for one in states]
        options.echo(options.table(rows, head=("JOB", "STATE", "MADE", "")))
    else:
        options.echo(f"no jobs in {namespace}; `orchestrate k8s submit PIPELINE` makes one")
    return 0


@command.command(short_help="What a job prints.")
@click.argument("name", required=False)
@namespace
@context
@click.option("-f", "--follow", is_flag=True, help="As it grows; exits as `submit` does.")
@click.option(
    "--tail", type=click.IntRange(1), default=200, show_default=True, metavar="N", help="Only the last lines."
)
@click.option(
    "--of",
    "component",
    type=click.Choice(["run", "head", "workers"]),
    default="run",
    show_default=True,
    help="The run, or Ray's own processes.",
)
def logs(name: str | None, namespace: str, context: str | None, follow: bool, tail: int, component: str) -> int:
    """Print what the job NAME (default: the newest) prints."""
    from orchestrator.kubernetes.client import Api

    api = Api(namespace, context=context)
    name = name or _newest(api)
    if follow:
        return _followed(api, name, None, None, as_json=False)
    api.get("RayJob", name)
    wanted = {"run": "submitter", "head": "ray-head", "workers": "ray-worker"}[component]
    labels = {"app.kubernetes.io/instance": name, "app.kubernetes.io/component": wanted}
    pods = sorted(api.all("Pod", labels=labels), key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    if not pods:
        raise Unavailable(f"{name} has no pod of that kind", hint=f"`orchestrate k8s debug {name}` says why")
    for pod in pods:
        first = ((pod.get("spec") or {}).get("containers") or [{}])[0].get("name")
        if len(pods) > 1:
            options.tell(f"--- {pod['metadata']['name']}")
        for line in api.log(pod["metadata"]["name"], container=first, tail=tail):
            options.echo(line)
    return 0


@command.command(short_help="Why a job does not run, in plain words.")
@click.argument("name", required=False)
@namespace
@context
@options.as_json
def debug(name: str | None, namespace: str, context: str | None, as_json: bool) -> int:
    """Gather what the cluster knows of the job NAME (default: the newest): conditions, events, pods, last lines."""
    from orchestrator.kubernetes import diagnosis
    from orchestrator.kubernetes.client import Api

    api = Api(namespace, context=context)
    found = diagnosis.debug(api, name or _newest(api))
    if as_json:
        options.emit(**found.to_json())
    else:
        options.echo(_diagnosed(found))
    return 0


def _diagnosed(found: Diagnosis) -> str:
    parts = [f"{click.style(found.job.name, bold=True)} {found.job.word}"]
    parts += [f"  {click.style('!', fg='red')} {finding}" for finding in found.findings]
    if not found.findings:
        parts.append("  nothing wrong is known of it")
    if found.pods:
        rows = [(pod.name, pod.component, pod.state, str(pod.restarts), pod.detail) for pod in found.pods]
        parts += ["", options.table(rows, head=("POD", "IS", "STATE", "RESTARTS", ""))]
    for title, lines in (
        ("conditions", found.conditions),
        ("warnings", found.events),
        ("last lines", found.log),
        ("could not be read", found.unread),
    ):
        if lines:
            parts += ["", click.style(title, dim=True), *(f"  {line}" for line in lines)]
    return "\n".join(parts)


@command.command(short_help="Delete a job, and its cluster.")
@click.argument("name")
@namespace
@context
@click.option("--dry-run", is_flag=True, help="Only ask the server whether it could be.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete(name: str, namespace: str, context: str | None, dry_run: bool, yes: bool) -> int:
    """Delete the job NAME with its cluster and pods. What its run has stored stays, and another job goes on from it.

    Pods are asked to save first, and have a minute.
    """
    from orchestrator.kubernetes import standing
    from orchestrator.kubernetes.client import Api

    api = Api(namespace, context=context)
    state = standing.read(api.get("RayJob", name))
    if dry_run:
        api.delete("RayJob", name, dry_run=True)
        options.echo(f"would delete {name} ({state.word}) and its pods")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise BadInput(f"delete ends {name} ({state.word}), and nobody can be asked here", hint="say --yes")
        if not click.confirm(f"Delete {name} ({state.word}) and its pods?", err=True):
            return 0
    api.delete("RayJob", name)
    options.echo(f"deleted {name}")
    return 0


def _states(api: Api) -> list[State]:
    from orchestrator.kubernetes import standing

    found = map(standing.read, api.all("RayJob", labels=OURS))
    return sorted(found, key=lambda state: state.created, reverse=True)


def _newest(api: Api) -> str:
    states = _states(api)
    if not states:
        raise BadInput(f"there is no job in {api.namespace}", hint="`orchestrate k8s submit PIPELINE` makes one")
    return states[0].name


__all__ = ["command"]
