"""What the API server refuses in the pods of any document although each field has its type, and what no node could run.

The rules are those of Kubernetes' own validation of pod templates (`pkg/apis/core/validation`), as far as manifests of this
project and what users add to them can break them. `rules` and `wellformed` have names, mounts and variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.kubernetes.amounts import quantity, strange
from orchestrator.kubernetes.workloads import SERVING, Json, Workload, items, mapping, maps

Found = Iterator[tuple[str, str, str]]  # rule, path, what
IMAGE = re.compile(
    r"([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:\d+)?/)?"
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[\w][\w.-]{0,127})?(@[a-z0-9]+:[0-9a-fA-F]{32,})?"
)
PLAIN_RESOURCES = re.compile(r"cpu|memory|ephemeral-storage|hugepages-\w+")
DEVICES = re.compile(r"nvidia\.com/(gpu|gpu\.shared|mig-[\w.]+)")  # of NVIDIA's plugin
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
WAYS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PATIENCE_S = 30  # that a server has at least to start


def pod(work: Workload) -> Found:
    """Every fault of a pod template that its fields' types do not show."""
    at = f"{work.at}.spec" if work.at else "spec"
    yield from _lifetime(work, at)
    yield from _scheduling(work, at)
    yield from _profiles(mapping(work.spec.get("securityContext")), f"{at}.securityContext")
    yield from _volumes(work, at)
    if work.spec.get("ephemeralContainers"):
        yield "pod", f"{at}.ephemeralContainers", "cannot stand in a template: they are added to pods that run"
    for place, container in work.containers:
        yield from _profiles(mapping(container.get("securityContext")), f"{place}.securityContext")
        yield from _image(container, place)
        yield from _environment(container, place)
        yield from _mounts(container, place)
        yield from _amounts(container, place)
        for key in PROBES:
            if key in container:
                yield from _probe(mapping(container[key]), key, f"{place}.{key}")
        for hook in ("postStart", "preStop"):
            if hook in mapping(container.get("lifecycle")):
                handler = mapping(mapping(container["lifecycle"]).get(hook))
                yield from _handler(handler, f"{place}.lifecycle.{hook}")


def _lifetime(work: Workload, at: str) -> Found:
    kind, spec = work.document.get("kind"), work.spec
    if kind in SERVING:
        if spec.get("restartPolicy", "Always") != "Always":
            yield "pod", f"{at}.restartPolicy", f"must be Always in a {kind}"
        if "activeDeadlineSeconds" in spec:
            yield "pod", f"{at}.activeDeadlineSeconds", f"cannot stand in a {kind}"
    if kind in ("Job", "CronJob") and spec.get("restartPolicy") not in ("Never", "OnFailure"):
        yield "pod", f"{at}.restartPolicy", f"must be Never or OnFailure in a {kind}"
    if spec.get("dnsPolicy") == "None" and not items(mapping(spec.get("dnsConfig")).get("nameservers")):
        yield "pod", f"{at}.dnsConfig", "needs nameservers where dnsPolicy is None"
    if mapping(spec.get("os")).get("name") not in (None, "linux"):
        yield "pod", f"{at}.os.name", "is not linux, which is what the image and the security context are for"
    if str(spec.get("priorityClassName", "")).startswith("system-"):
        yield "pod", f"{at}.priorityClassName", "is for the cluster's own pods: it would push them out"


def _scheduling(work: Workload, at: str) -> Found:
    for key in mapping(work.spec.get("nodeSelector")):
        if not LABEL_KEY.fullmatch(str(key)):
            yield "pod", f"{at}.nodeSelector.{key}", "is no label's name"
    for number, one in enumerate(maps(work.spec.get("tolerations"))):
        place = f"{at}.tolerations[{number}]"
        if "tolerationSeconds" in one and one.get("effect") != "NoExecute":
            yield "pod", f"{place}.tolerationSeconds", "is for the effect NoExecute alone"
        if not one.get("key"):
            if one.get("operator") != "Exists":
                yield "pod", place, "needs a key"
            else:
                yield "spread", place, "tolerates everything: nodes that are broken or being drained, too"
    for number, one in enumerate(maps(work.spec.get("topologySpreadConstraints"))):
        place = f"{at}.topologySpreadConstraints[{number}]"
        if _int(one.get("maxSkew"), 1) < 1:
            yield "pod", f"{place}.maxSkew", "must be at least 1"
        if "minDomains" in one and one.get("whenUnsatisfiable") != "DoNotSchedule":
            yield "pod", f"{place}.minDomains", "is for DoNotSchedule alone"
        selector = mapping(one.get("labelSelector"))
        if not selector or not _selects(selector, work.labels):
            yield "spread", f"{place}.labelSelector", "does not select these pods: nothing is spread"
        yield from selector_terms(selector, f"{place}.labelSelector")
    yield from _affinity(mapping(work.spec.get("affinity")), f"{at}.affinity")


def _affinity(affinity: Json, at: str) -> Found:
    node = mapping(affinity.get("nodeAffinity"))
    terms = [
        *maps(mapping(node.get("requiredDuringSchedulingIgnoredDuringExecution")).get("nodeSelectorTerms")),
        *[mapping(one.get("preference")) for one in maps(node.get("preferredDuringSchedulingIgnoredDuringExecution"))],
    ]
    for term in terms:
        yield from _expressions(term, f"{at}.nodeAffinity", ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity"):
        found = mapping(affinity.get(kind))
        preferred = maps(found.get("preferredDuringSchedulingIgnoredDuringExecution"))
        for one in preferred:
            if not 1 <= _int(one.get("weight"), 1) <= 100:
                yield "pod", f"{at}.{kind}", f"has the weight {one.get('weight')}: 1 to 100"
        if kind != "nodeAffinity":
            wanted = maps(found.get("requiredDuringSchedulingIgnoredDuringExecution"))
            for one in [*wanted, *(mapping(each.get("podAffinityTerm")) for each in preferred)]:
                if not one.get("topologyKey"):
                    yield "pod", f"{at}.{kind}", "lacks a topologyKey"
                yield from selector_terms(mapping(one.get("labelSelector")), f"{at}.{kind}")


def selector_terms(selector: Json, at: str) -> Found:
    """What is wrong with the expressions of a label selector."""
    yield from _expressions(selector, at, ("In", "NotIn", "Exists", "DoesNotExist"))


def _expressions(found: Json, at: str, operators: tuple[str, ...]) -> Found:
    for term in maps(found.get("matchExpressions")):
        how, values = term.get("operator"), items(term.get("values"))
        if how not in operators:
            yield "pod", f"{at}.matchExpressions", f"{how!r} is none of {', '.join(operators)}"
        elif (how in ("Exists", "DoesNotExist")) == bool(values):
            yield "pod", f"{at}.matchExpressions", f"{how} {'takes no' if values else 'needs'} values"


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    from orchestrator.kubernetes.traffic import selects

    return selects(selector, labels)


def _profiles(context: Json, at: str) -> Found:
    for key in ("seccompProfile", "appArmorProfile"):
        profile = mapping(context.get(key))
        if profile and (profile.get("type") == "Localhost") != bool(profile.get("localhostProfile")):
            told = "is missing" if profile.get("type") == "Localhost" else "is for the type Localhost alone"
            yield "pod", f"{at}.{key}.localhostProfile", told
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        if _int(context.get(key), 0) < 0:
            yield "pod", f"{at}.{key}", "must be at least 0"


def _volumes(work: Workload, at: str) -> Found:
    for number, volume in enumerate(maps(work.spec.get("volumes"))):
        place = f"{at}.volumes[{number}]"
        for kind in ("configMap", "secret", "projected", "downwardAPI"):
            mode = mapping(volume.get(kind)).get("defaultMode")
            if mode is not None and not 0 <= _int(mode, -1) <= 0o777:
                yield "pod", f"{place}.{kind}.defaultMode", f"{mode} is no mode: 0 to 511 (0777)"
        for source in maps(mapping(volume.get("projected")).get("sources")):
            if _int(mapping(source.get("serviceAccountToken")).get("expirationSeconds"), 3600) < 600:
                yield "pod", f"{place}.projected", "has a token for less than 600 seconds"
            for item in maps(mapping(source.get("downwardAPI")).get("items")):
                if (item.get("fieldRef") is None) == (item.get("resourceFieldRef") is None):
                    yield "pod", f"{place}.projected", "has an item without fieldRef or resourceFieldRef, or with both"
        room = mapping(volume.get("emptyDir")).get("sizeLimit")
        odd = "must be at least 0" if (quantity(room) or 0) < 0 else strange("storage", room)
        if odd:
            yield "amount", f"{place}.emptyDir.sizeLimit", odd
    mode = work.document.get("kind")
    for number, claim in enumerate(maps(mapping(work.document.get("spec")).get("volumeClaimTemplates"))):
        asked = mapping(mapping(mapping(claim.get("spec")).get("resources")).get("requests")).get("storage")
        if mode == "StatefulSet" and (odd := strange("storage", asked)):
            yield "amount", f"spec.volumeClaimTemplates[{number}].spec.resources.requests.storage", odd


def _image(container: Json, at: str) -> Found:
    image = container.get("image")
    if isinstance(image, str) and image and not IMAGE.fullmatch(image):
        yield (
            "image",
            f"{at}.image",
            f"{image!r} is no image's name: small letters, no spaces, then :TAG or @sha256:DIGEST",
        )


def _environment(container: Json, at: str) -> Found:
    for number, source in enumerate(maps(container.get("envFrom"))):
        given = [key for key in ("configMapRef", "secretRef") if mapping(source.get(key))]
        if len(given) != 1:
            yield "env", f"{at}.envFrom[{number}]", f"takes variables from {len(given)} places, not one"
    for variable in maps(container.get("env")):
        place, origin = f"{at}.env.{variable.get('name')}", variable.get("valueFrom")
        if origin is None:
            continue
        given = [key for key, value in mapping(origin).items() if value is not None]
        if len(given) != 1:
            yield "env", place, f"takes its value from {len(given)} places, not one"


def _mounts(container: Json, at: str) -> Found:
    for number, mount in enumerate(maps(container.get("volumeMounts"))):
        place = f"{at}.volumeMounts[{number}]"
        if ":" in str(mount.get("mountPath", "")):
            yield "mount", f"{place}.mountPath", "must not have a colon"
        for key in ("subPath", "subPathExpr"):
            path = str(mount.get(key, ""))
            if path.startswith("/") or ".." in path.split("/"):
                yield "mount", f"{place}.{key}", f"{path!r} leads out of the volume"
        if mount.get("mountPropagation") == "Bidirectional":
            yield "mount", f"{place}.mountPropagation", "is for privileged containers"


def _amounts(container: Json, at: str) -> Found:
    for key in ("limits", "requests"):
        for name, value in mapping(mapping(container.get("resources")).get(key)).items():
            place, amount = f"{at}.resources.{key}.{name}", quantity(value)
            if "/" not in str(name):
                if not PLAIN_RESOURCES.fullmatch(str(name)):
                    yield (
                        "amount",
                        place,
                        "is no resource: cpu, memory, ephemeral-storage, or a device as nvidia.com/gpu",
                    )
            elif amount is not None and amount != amount.to_integral_value():
                yield "amount", place, f"{value}: devices are whole"
            elif str(name).startswith("nvidia.com/") and not DEVICES.fullmatch(str(name)):
                yield "amount", place, "is no device of NVIDIA's plugin: nvidia.com/gpu"
            if amount is not None and amount < 0:
                yield "amount", place, f"{value} must be at least 0"
            elif odd := strange(str(name), value):
                yield "amount", place, odd


def _handler(handler: Json, at: str) -> Found:
    ways = [way for way in WAYS if way in handler]
    if len(ways) != 1:
        yield "probes", at, "asks nothing" if not ways else f"has {' and '.join(ways)}: one of them"
    if "exec" in handler and not items(mapping(handler["exec"]).get("command")):
        yield "probes", f"{at}.exec.command", "is missing"
    for way in ("httpGet", "tcpSocket", "grpc"):
        port = mapping(handler.get(way)).get("port")
        if isinstance(port, int) and not 0 < port < 65536:
            yield "probes", f"{at}.{way}.port", f"{port} is no port"


def _probe(probe: Json, key: str, at: str) -> Found:
    yield from _handler(probe, at)
    for name, least in (
        ("periodSeconds", 1),
        ("timeoutSeconds", 1),
        ("failureThreshold", 1),
        ("successThreshold", 1),
        ("initialDelaySeconds", 0),
    ):
        if _int(probe.get(name), least) < least:
            yield "probes", f"{at}.{name}", f"must be at least {least}"
    if key != "readinessProbe" and _int(probe.get("successThreshold"), 1) != 1:
        yield "probes", f"{at}.successThreshold", "must be 1 but for readiness"
    patience = _int(probe.get("initialDelaySeconds"), 0)
    patience += _int(probe.get("periodSeconds"), 10) * _int(probe.get("failureThreshold"), 3)
    if key == "startupProbe" and patience < PATIENCE_S:
        yield "probes", at, f"gives up after {patience} s: a server that makes its tables first takes longer"


def _int(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


__all__ = ["pod", "selector_terms"]
