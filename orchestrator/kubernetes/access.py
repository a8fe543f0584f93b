"""Who may do what, what is open to whom, and what must not stand in the clear: accounts, roles, namespaces, Services, secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.kubernetes.workloads import Json, items, mapping, maps, texts, workloads

Found = Iterator[tuple[str, str, str]]  # rule, path, what
LEVELS = ("enforce", "audit", "warn")
# What a Role here may hold at most: group, resource -> verbs. Nothing that reads Secrets, runs commands in pods or grants rights.
MOST: dict[tuple[str, str], frozenset[str]] = {
    ("ray.io", "rayjobs"): frozenset(("create", "get", "list", "watch", "patch", "update", "delete")),
    ("ray.io", "rayjobs/status"): frozenset(("get",)),
    ("ray.io", "rayclusters"): frozenset(("get", "list", "watch")),
    ("", "configmaps"): frozenset(("create", "get", "patch", "update", "delete")),
    ("", "pods"): frozenset(("get", "list", "watch")),
    ("", "pods/log"): frozenset(("get", "list")),
    ("", "events"): frozenset(("get", "list", "watch")),
    ("events.k8s.io", "events"): frozenset(("get", "list", "watch")),
}
EVERYBODY = {
    "system:anonymous",
    "system:authenticated",
    "system:unauthenticated",
    "system:serviceaccounts",
    "system:masters",
}
ACCOUNT = r"(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
FOR_JOBS = ("storage", "mlflow-auth")  # Secrets that hold nothing but what jobs need
SECRET_NAME = re.compile(r"passw(or)?d|secret|token|api_?key|access_?key|private_?key|credential", re.IGNORECASE)
NOT_SECRET = re.compile(r"(_FILE|_PATH|_NAME|_URL|_MODE)$|^RAY_AUTH_MODE$")
SECRET_TEXT = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"), "an AWS access key"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@$]*:[^/\s:@$(]+@"), "a password in an address"),
    (re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."), "a token"),
    (re.compile(r"\b(ghp|gho|github_pat|glpat|xox[bp]|hf)_[A-Za-z0-9_]{16,}"), "a token"),
    (re.compile(r"(?i)--?[\w-]*(password|secret|token)[\w-]*[= ](?!\$\()[^\s$]+"), "a password"),
)


def document(found: Json) -> Found:
    """Rules of documents that are no pods."""
    kind = str(found.get("kind"))
    if kind == "Namespace":
        yield from _namespace(found)
    elif kind == "ServiceAccount" and found.get("automountServiceAccountToken") is not False:
        yield "token", "automountServiceAccountToken", "is not false: every pod of the account would get a token"
    elif kind == "Role":
        yield from _role(found)
    elif kind == "RoleBinding":
        yield from _binding(found)
    elif kind.startswith("ClusterRole"):
        yield "rbac", "", "reaches over all namespaces: a Role is enough"
    elif kind == "Service":
        yield from _service(found)
    elif kind == "Ingress":
        yield "exposure", "", "opens a Service to the outside: port-forward, or one with its own authentication"
    elif kind == "Secret":
        yield from _secret(found)
    yield from _clear(found)


def _namespace(found: Json) -> Found:
    labels = texts(mapping(found.get("metadata")).get("labels"))
    for level in LEVELS:
        if labels.get(f"pod-security.kubernetes.io/{level}") != "restricted":
            yield "namespace", f"metadata.labels.pod-security.kubernetes.io/{level}", "is not restricted"
        version = labels.get(f"pod-security.kubernetes.io/{level}-version", "latest")
        if version != "latest" and not re.fullmatch(r"v1\.(2[5-9]|[3-9]\d)", version):
            yield "namespace", f"metadata.labels.pod-security.kubernetes.io/{level}-version", f"{version} is too old"

    for key in labels:
        name = key.removeprefix("pod-security.kubernetes.io/")
        if name != key and name.removesuffix("-version") not in LEVELS:
            yield "namespace", f"metadata.labels.{key}", "says nothing: enforce, audit or warn"


def _role(found: Json) -> Found:
    for number, rule in enumerate(maps(found.get("rules"))):
        at = f"rules[{number}]"
        if rule.get("nonResourceURLs"):
            yield "rbac", f"{at}.nonResourceURLs", "is for ClusterRoles"
        for key in ("apiGroups", "resources", "verbs"):
            if not items(rule.get(key)):
                yield "rbac", f"{at}.{key}", "is empty: the API server refuses the rule"
        for group in items(rule.get("apiGroups")):
            for resource in items(rule.get("resources")):
                allowed = MOST.get((str(group), str(resource)))
                if allowed is None:
                    yield "rbac", at, f"{group or 'core'}/{resource} is more than submitting and watching jobs needs"
                    continue
                for verb in items(rule.get("verbs")):
                    if str(verb) not in allowed:
                        yield "rbac", f"{at}.verbs", f"{verb} on {resource} is more than submitting jobs needs"


def _binding(found: Json) -> Found:
    role = mapping(found.get("roleRef"))
    if role.get("kind") != "Role":
        yield "rbac", "roleRef", f"gives a {role.get('kind')}, not a Role of this namespace"
    for number, subject in enumerate(maps(found.get("subjects"))):
        at, name = f"subjects[{number}]", str(subject.get("name"))
        if name in EVERYBODY or name.startswith("system:serviceaccounts"):
            yield "rbac", at, f"{name} is everybody"
        group = "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io"
        form = ACCOUNT if not group else r".+"
        if not re.fullmatch(form, name):
            yield "rbac", f"{at}.name", f"{name!r} is no name of a {subject.get('kind')}"
        if subject.get("apiGroup", group) != group:
            yield "rbac", f"{at}.apiGroup", f"of a {subject.get('kind')} must be {group!r}"
        if subject.get("kind") != "ServiceAccount" and "namespace" in subject:
            yield "rbac", f"{at}.namespace", f"is not for a {subject.get('kind')}"
        if subject.get("kind") == "ServiceAccount" and name == "default":
            yield "rbac", at, "is the account of every pod that names none"


def _service(found: Json) -> Found:
    spec = mapping(found.get("spec"))
    if spec.get("type", "ClusterIP") != "ClusterIP":
        yield "exposure", "spec.type", f"{spec.get('type')} opens it beyond the cluster"
    if items(spec.get("externalIPs")) or spec.get("externalName") or spec.get("loadBalancerIP"):
        yield "exposure", "spec", "has external addresses"
    ports = maps(spec.get("ports"))
    names = [str(port.get("name", "")) for port in ports]
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        yield "port", "spec.ports", "are missing"
    for number, port in enumerate(ports):
        at, value = f"spec.ports[{number}]", port.get("port")
        if port.get("nodePort") and spec.get("type", "ClusterIP") == "ClusterIP":
            yield "port", f"{at}.nodePort", "is for the type NodePort"
        if isinstance(value, int) and not 0 < value < 65536:
            yield "port", f"{at}.port", f"{value} is no port"
        if len(ports) > 1 and (not names[number] or names.count(names[number]) > 1):
            yield "port", f"{at}.name", "is missing, or another port's: several ports need names of their own"


def _secret(found: Json) -> Found:
    """A Secret may be part of what kustomize built; whoever reads files must not find one (see `plain_secrets`)."""
    if found.get("type") == "kubernetes.io/service-account-token":
        yield "token", "type", "is a token of the API server that never ends"


def plain_secrets(found: Json) -> Found:
    """For documents as they stand in files: a Secret with its contents, or a generator with them."""
    if found.get("kind") == "Secret" and (found.get("data") or found.get("stringData")):
        yield "secrets", "data", "stands in a file: let a secretGenerator read it from one that git ignores"
    for number, maker in enumerate(maps(found.get("secretGenerator"))):
        if maker.get("literals"):
            yield "secrets", f"secretGenerator[{number}].literals", "stand in a file"
        for key in ("envs", "files"):
            for path in items(maker.get(key)):
                if not str(path).endswith(".env"):
                    yield "secrets", f"secretGenerator[{number}].{key}", f"{path} is no file that git ignores (*.env)"


def _clear(found: Json) -> Found:
    """Secrets in the clear: variables, arguments, ConfigMaps, annotations."""
    for work in workloads(found):
        for at, container in work.containers:
            for variable in maps(container.get("env")):
                name, value = str(variable.get("name")), variable.get("value")
                if isinstance(value, str) and value and is_secret_name(name) and not value.startswith("$("):
                    yield "secrets", f"{at}.env.{name}", "has its value in the clear: take it from a Secret"
            for source in maps(container.get("envFrom")):
                secret = mapping(source.get("secretRef")).get("name")
                if "secretRef" in source and secret not in FOR_JOBS:
                    yield "secrets", f"{at}.envFrom", f"takes all of the Secret {secret}: name the keys that it needs"
    if found.get("kind") == "ConfigMap":
        for key in texts(found.get("data")):
            if is_secret_name(key) and mapping(found.get("data"))[key]:
                yield "secrets", f"data.{key}", "is no place for secrets: use a Secret"
    if found.get("kind") != "Secret":
        for at, text in _strings(found, ""):
            for pattern, what in SECRET_TEXT:
                if pattern.search(text):
                    yield "secrets", at, f"looks like {what}"


def is_secret_name(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not NOT_SECRET.search(name)


def _strings(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{at}.{key}" if at else str(key))
    else:
        for number, item in enumerate(items(value)):
            yield from _strings(item, f"{at}[{number}]")
