"""What manifests must keep to beyond their schema: checked before anything is rendered, submitted or released.

`check(documents)` judges each document by itself; `check_bundle(documents)` also judges an installation (documents with a
Namespace or a NetworkPolicy among them) as a whole. What a RayJob or a RayCluster must be for KubeRay is `model.check`.
`orchestrate k8s check` (`checking`) tells all of it with positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.kubernetes import access, bundle, hardening, limits, podrules, traffic, wellformed
from orchestrator.kubernetes.shapes import misfits
from orchestrator.kubernetes.workloads import Json, name_of, workloads

INSTALLED = ("Namespace", "NetworkPolicy")  # an installation has them; a job alone has not
RAY = ("RayJob", "RayCluster")  # whose fields `model.check` judges


@dataclass(frozen=True)
class Violation:
    """One thing that is not as it must be."""

    rule: str  # "seccomp", stable
    where: str  # "Deployment mlflow spec.template.spec.containers[0].securityContext"
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} [{self.rule}]"


def check(documents: Iterable[Json]) -> list[Violation]:
    """Every violation in documents, each judged by itself."""
    found = []
    for document in documents:
        told = [("schema", fault.path, fault.what) for fault in misfits(document) if document.get("kind") not in RAY]
        told += [
            *wellformed.document(document),
            *limits.document(document),
            *access.document(document),
            *traffic.policy(document),
        ]
        for work in workloads(document):
            told += [*wellformed.pod(work), *podrules.pod(work), *hardening.pod(work)]
        found += [Violation(rule, f"{name_of(document)} {at}".strip(), what) for rule, at, what in told]
    return list(dict.fromkeys(found))


def check_bundle(documents: Sequence[Json]) -> list[Violation]:
    """`check`, and, where a Namespace is among the documents, the rules of a whole installation."""
    found = check(documents)
    found += [Violation(rule, at, what) for rule, at, what in bundle.jobs(documents)]
    if any(document.get("kind") in INSTALLED for document in documents):
        found += [Violation(rule, at or "the installation", what) for rule, at, what in bundle.installation(documents)]
    return list(dict.fromkeys(found))


def check_file(documents: Iterable[Json]) -> list[Violation]:
    """For documents as they stand in files: secrets that a reader of the file would see."""
    return [
        Violation(rule, f"{name_of(document)} {at}".strip(), what)
        for document in documents
        for rule, at, what in access.plain_secrets(document)
    ]
