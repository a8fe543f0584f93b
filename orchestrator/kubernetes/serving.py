"""What serves in an installation, MLflow and its database: that it can start, is guarded, keeps its data, and is found."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.kubernetes.amounts import quantity
from orchestrator.kubernetes.workloads import Json, Workload, dig, items, mapping, maps, name_of, texts

Found = Iterator[tuple[str, str, str]]  # rule, path beginning with the document, what
Named = Mapping[tuple[str, str], Json]
VARIABLE = re.compile(r"(?<!\$)\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
NEEDED = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
TOLD = ("ORCHESTRATOR_STORAGE", "MLFLOW_TRACKING_URI")


def check(documents: Sequence[Json], works: Sequence[Workload], space: str) -> Found:
    """Every rule of this module, over one installation."""
    named = {(str(d.get("kind")), str(mapping(d.get("metadata")).get("name"))): d for d in documents}
    for work in works:
        yield from _rollout(work, named)
        for at, container in work.containers:
            yield from _variables(work, at, container, named)
            if re.search(r"(^|/)postgres[:@]", str(container.get("image"))):
                yield from _database(work, f"{name_of(work.document)} {at}", container, named)
    settings = texts(named.get(("ConfigMap", "orchestrator"), {}).get("data"))
    for key in TOLD:
        if not settings.get(key):
            yield "missing", "ConfigMap orchestrator", f"lacks {key}"
    found = [(work, at, c) for work in works for at, c in work.containers if _words(c)[:2] == ["mlflow", "server"]]
    if len(found) != 1:
        yield "tracking", "the installation", f"has {len(found)} MLflow servers, not one"
    for work, at, container in found:
        yield from _server(work, f"{name_of(work.document)} {at}", container, named, space)
    yield from _found(settings.get("MLFLOW_TRACKING_URI", "").partition("://")[2], named, space)


def _words(container: Json) -> list[str]:
    return [str(word) for word in (*items(container.get("command")), *items(container.get("args")))]


def values(container: Json, named: Named) -> dict[str, str]:
    """Variables of a container, as far as they are known; "" for one that a Secret has."""
    known: dict[str, str] = {}
    for source in maps(container.get("envFrom")):
        known |= texts(named.get(("ConfigMap", str(mapping(source.get("configMapRef")).get("name"))), {}).get("data"))
    for variable in maps(container.get("env")):
        if "value" in variable or variable.get("valueFrom"):
            known[str(variable.get("name"))] = str(variable.get("value", ""))
    return known


def _variables(work: Workload, at: str, container: Json, named: Named) -> Found:
    known = values(container, named)
    for word in _words(container):
        for name in VARIABLE.findall(word):
            if name not in known:
                yield "reference", f"{name_of(work.document)} {at}.args", f"$({name}) is not set: it stays as it is"
    for variable in maps(container.get("env")):
        if "value" not in variable and not _source(variable):
            yield "env", f"{name_of(work.document)} {at}.env", f"{variable.get('name')} is empty"


def _source(variable: Json) -> bool:
    return any(mapping(source) for source in mapping(variable.get("valueFrom")).values())


def _rollout(work: Workload, named: Named) -> Found:
    spec, where = mapping(work.document.get("spec")), name_of(work.document)
    claims = [volume for volume in maps(work.spec.get("volumes")) if "persistentVolumeClaim" in volume]
    kind = work.document.get("kind")
    if kind == "Deployment" and claims:
        if mapping(spec.get("strategy")).get("type") != "Recreate":
            yield "rollout", f"{where} spec.strategy", "is not Recreate: the next pod waits for the volume for ever"
        if spec.get("replicas", 1) not in (0, 1):
            yield "rollout", f"{where} spec.replicas", "is more than the volume takes"
    if kind == "StatefulSet":
        service = named.get(("Service", str(spec.get("serviceName"))))
        if service is None or dig(service, "spec").get("clusterIP") != "None":
            yield "reference", f"{where} spec.serviceName", f"{spec.get('serviceName')} is no headless Service"
        for claim in maps(spec.get("volumeClaimTemplates")):
            if (quantity(dig(claim, "spec.resources.requests").get("storage")) or 0) <= 0:
                yield "amount", f"{where} spec.volumeClaimTemplates", "ask for no room"
            if not items(mapping(claim.get("spec")).get("accessModes")):
                yield "amount", f"{where} spec.volumeClaimTemplates", "lack accessModes"
        claims += list(maps(spec.get("volumeClaimTemplates")))
    if claims and not mapping(work.spec.get("securityContext")).get("fsGroup"):
        yield "files", f"{where} {work.at}.spec.securityContext.fsGroup", "is missing: the volume is root's"


def _server(work: Workload, where: str, container: Json, named: Named, space: str) -> Found:
    words, known = _words(container), values(container, named)
    options = {
        word.partition("=")[0]: VARIABLE.sub(lambda found: known.get(found[1], ""), word.partition("=")[2])
        for word in words
        if word.startswith("--")
    }
    if options.get("--app-name") != "basic-auth":
        yield "tracking", where, "lets in whoever reaches it: --app-name=basic-auth"
    if "--serve-artifacts" not in options:
        yield "tracking", where, "serves no artifacts: jobs would need the storage's keys"
    if options.get("--host") != "0.0.0.0":  # noqa: S104 - a pod's own address
        yield "tracking", where, "does not listen on the pod's address: --host=0.0.0.0"
    if options.get("--port") not in {str(port.get("containerPort")) for port in maps(container.get("ports"))}:
        yield "tracking", where, f"listens on {options.get('--port')}, which is none of its ports"
    given = {str(variable.get("name")): variable for variable in maps(container.get("env"))}
    for name in NEEDED:
        if name not in known or dig(given.get(name, {}), "valueFrom.secretKeyRef").get("optional") is True:
            yield "tracking", where, f"lacks {name}, or may lack it"
    if mapping(work.document.get("spec")).get("replicas") == 0:
        yield "tracking", where, "has no replica: nothing would be tracked"
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = dig(container, f"{key}.httpGet")
        if asked.get("path", "/health") not in ("/health", "/version"):
            yield (
                "probes",
                f"{where}.{key}",
                f"asks for {asked['path']}, which needs an account or is not there: /health",
            )
        if asked.get("scheme", "HTTP") != "HTTP":
            yield "probes", f"{where}.{key}", "asks by HTTPS, which the server does not speak"
    yield from _hosts(options.get("--allowed-hosts", ""), where, named)
    for option in ("--backend-store-uri", "--artifacts-destination"):
        yield from _kept(options.get(option, ""), f"{where} {option}", work, container)
    yield from _accounts(known.get("MLFLOW_AUTH_CONFIG_PATH", ""), where, work, container, named)
    if options.get("--artifacts-destination", "").startswith("s3:"):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if name not in known:
                yield "tracking", where, f"lacks {name}"
    host = known.get("PGHOST", "")
    if host.endswith(".svc"):
        if ("Service", host.partition(".")[0]) not in named or host.split(".")[1:2] != [space]:
            yield "reference", where, f"PGHOST {host} is no Service here"
        ports = maps(dig(named.get(("Service", host.partition(".")[0]), {}), "spec").get("ports"))
        if known.get("PGPORT") not in {str(port.get("port")) for port in ports}:
            yield "reference", where, f"PGPORT {known.get('PGPORT')} is no port of {host}"
    if "postgres" in options.get("--backend-store-uri", ""):
        for name in ("PGHOST", "PGUSER", "PGPASSWORD"):
            if name not in known:
                yield "tracking", where, f"lacks {name}"


def _database(work: Workload, where: str, container: Json, named: Named) -> Found:
    known = values(container, named)
    for name in ("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"):
        if name not in known:
            yield "tracking", where, f"lacks {name}"
    if known.get("POSTGRES_HOST_AUTH_METHOD", "scram-sha-256") != "scram-sha-256":
        yield "tracking", where, "POSTGRES_HOST_AUTH_METHOD lets in whoever reaches it, or sends passwords badly"
    if mapping(work.document.get("spec")).get("replicas", 1) not in (0, 1):
        yield "tracking", where, "is more than one: each would have tables of its own"
    claims = {
        str(mapping(one.get("metadata")).get("name"))
        for one in maps(dig(work.document, "spec").get("volumeClaimTemplates"))
    }
    claims |= {str(one.get("name")) for one in maps(work.spec.get("volumes")) if "persistentVolumeClaim" in one}
    mounts = [
        str(mount.get("mountPath", "")).rstrip("/") + "/"
        for mount in maps(container.get("volumeMounts"))
        if mount.get("name") in claims and mount.get("readOnly") is not True
    ]
    if not any(known.get("PGDATA", "").startswith(mount) for mount in mounts):
        yield "tracking", where, "PGDATA is no folder in a volume that outlives the pod"
    for other in named.values():
        for key in ("PGUSER", "PGDATABASE") if other.get("kind") == "ConfigMap" else ():
            told = texts(other.get("data")).get(key)
            made = known.get("POSTGRES_USER" if key == "PGUSER" else "POSTGRES_DB")
            if told is not None and made and told != made:
                yield "reference", f"{name_of(other)} data.{key}", f"{told} is not what the database makes, {made}"


def _hosts(allowed: str, where: str, named: Named) -> Found:
    hosts = allowed.split(",")
    if any(host in ("", "*") for host in hosts):
        yield "tracking", where, "answers to any host name: --allowed-hosts"
    told = texts(named.get(("ConfigMap", "orchestrator"), {}).get("data")).get("MLFLOW_TRACKING_URI", "")
    if told.partition("://")[2] not in hosts:
        yield "tracking", where, f"does not answer to {told}, which jobs are told"


def _kept(place: str, where: str, work: Workload, container: Json) -> Found:
    """A local path must be in a volume that outlives the pod."""
    if not place:
        yield "tracking", where, "is missing: data would go with the pod"
    path = place.partition("://")[2].removeprefix("/") if place.startswith("sqlite") else place
    if path.startswith("/") and _volume(path, work, container, "persistentVolumeClaim") is None:
        yield "tracking", where, f"{path} is in no volume that can be written and outlives the pod"


def _volume(path: str, work: Workload, container: Json, kind: str) -> Json | None:
    """The volume of a kind that is mounted over a path."""
    volumes = {str(volume.get("name")): volume for volume in maps(work.spec.get("volumes"))}
    for mount in maps(container.get("volumeMounts")):
        below = str(mount.get("mountPath", "")).rstrip("/") + "/"
        found = volumes.get(str(mount.get("name")), {})
        if kind == "persistentVolumeClaim" and mount.get("readOnly") is True:
            continue
        if path.startswith(below) and mapping(found.get(kind)):
            return mapping(found[kind])
    return None


def _accounts(path: str, where: str, work: Workload, container: Json, named: Named) -> Found:
    volume = _volume(path, work, container, "configMap")
    held = texts(named.get(("ConfigMap", str((volume or {}).get("name"))), {}).get("data"))
    text = held.get(path.rpartition("/")[2])
    if text is None:
        yield "tracking", where, "MLFLOW_AUTH_CONFIG_PATH is no mounted file: whatever MLflow ships with would hold"
        return
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        section = dict(parser["mlflow"])
    except (configparser.Error, KeyError) as error:
        yield "tracking", where, f"{path}: {error}"
        return
    if section.get("default_permission") not in ("READ", "NO_PERMISSIONS"):
        yield "tracking", where, f"{path}: default_permission lets every account change what others made"
    if section.get("admin_password"):
        yield "secrets", where, f"{path} has the administrator's password"
    yield from _kept(section.get("database_uri", ""), f"{where} {path} database_uri", work, container)


def _found(address: str, named: Named, space: str) -> Found:
    """`mlflow.gan-orchestrator.svc:5000` leads to a Service, and to one of its ports."""
    host, _, port = address.partition(":")
    name, _, rest = host.partition(".")
    service = named.get(("Service", name))
    if service is None or (rest and rest not in (space, f"{space}.svc", f"{space}.svc.cluster.local")):
        yield "reference", "ConfigMap orchestrator MLFLOW_TRACKING_URI", f"{host} is no Service here"
    elif port not in {str(one.get("port")) for one in maps(dig(service, "spec").get("ports"))}:
        yield "reference", "ConfigMap orchestrator MLFLOW_TRACKING_URI", f"{port} is no port of {name}"
