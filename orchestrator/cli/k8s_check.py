"""`orchestrate k8s check`: whether manifests are as the API server, KubeRay and this project want them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli import options
from orchestrator.errors import BadInput


@click.command("check", short_help="Manifests: what is wrong, where, and why. Needs no cluster.")
@click.argument("paths", nargs=-1, metavar="[FILE|FOLDER|-]...", type=click.Path(allow_dash=True))
@options.as_json
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Check Kubernetes YAML: files, folders, kustomizations (built with kubectl), or - for standard input.

    Everything that is named is judged together, as what one namespace would hold: names that lead nowhere, quotas that do
    not admit what stands there, traffic that is cut off. One line for each finding: place, rule, field, what is wrong, why
    that matters, what to do.

    \b
    kubectl kustomize k8s/overlays/dev-kind | orchestrate k8s check -
    orchestrate k8s check k8s/overlays/s3-prod
    orchestrate k8s check job.yaml
    orchestrate k8s render pipelines/dcgan.yaml | orchestrate k8s check k8s/overlays/gpu -

    \b
    Exit codes: 0 nothing is wrong, 2 something is, or nothing could be read.
    """
    from orchestrator.kubernetes import checking

    if not paths and sys.stdin.isatty():
        raise BadInput("nothing to check", hint="name a file, a kustomization, or - for standard input")
    for path in paths:
        if path != "-" and not Path(path).exists():
            raise BadInput(
                f"there is no {path}", hint="name a file, a folder, a kustomization, or - for standard input"
            )
    pipe = sys.stdin.read() if not paths or "-" in paths else ""
    documents, faults = checking.gather(paths or ("-",), pipe)
    if not documents and not faults:
        raise BadInput("there is no document in it", hint="does `kubectl kustomize FOLDER` print any?")
    report = checking.check(documents)
    findings = [*faults, *report.findings]
    if as_json:
        options.emit(documents=report.documents, findings=[one.to_json() for one in findings], notes=list(report.notes))
        return 2 if findings else 0
    for note in report.notes:
        options.tell(f"note: {note}")
    for finding in findings:
        options.echo(str(finding))
    count = f"{len(findings)} finding{'s' * (len(findings) != 1)}" if findings else "nothing is wrong"
    options.tell(f"{report.documents} document{'s' * (report.documents != 1)}: {count}")
    return 2 if findings else 0


__all__ = ["command"]
