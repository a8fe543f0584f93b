"""What network policies let through: a small model of them, the traffic that jobs need, and the traffic that must not be.

The model is the one of `networking.k8s.io/v1`: policies only add; a pod that some policy selects for a direction gets
nothing in that direction but what those policies list; both ends must agree.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.kubernetes.podrules import selector_terms
from orchestrator.kubernetes.workloads import MINE, Json, items, job_labels, mapping, maps, texts

Found = Iterator[tuple[str, str, str]]  # rule, path, what
METADATA = {4: "169.254.169.254", 6: "fd00:ec2::254"}  # hands out the node's credentials in most clouds, by IP version
WIDE = {4: 16, 6: 48}  # bits of a network that may be let in
DNS = 53
OUTSIDE = "203.0.113.7"  # some address of the internet (RFC 5737)


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod in a namespace, or an address outside of the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""  # "" where it is an address
    address: str = ""


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """A label selector, matchLabels and matchExpressions; an empty one selects everything."""
    if any(labels.get(key) != value for key, value in texts(selector.get("matchLabels")).items()):
        return False
    for term in maps(selector.get("matchExpressions")):
        key, values, how = str(term.get("key")), [str(v) for v in items(term.get("values"))], term.get("operator")
        here = key in labels
        good = {
            "In": here and labels.get(key) in values,
            "NotIn": not here or labels.get(key) not in values,
            "Exists": here,
            "DoesNotExist": not here,
        }.get(str(how), False)
        if not good:
            return False
    return True


def wide(selector: Json) -> bool:
    """Whether a selector says nothing, and so selects everything."""
    return not texts(selector.get("matchLabels")) and not maps(selector.get("matchExpressions"))


def passes(policies: Sequence[Json], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection gets through all policies, at both ends."""
    return _side(policies, "Egress", source, target, port, protocol) and _side(
        policies, "Ingress", target, source, port, protocol
    )


def _side(policies: Sequence[Json], way: str, here: Peer, there: Peer, port: int, protocol: str) -> bool:
    if not here.namespace:
        return True  # not ours to decide
    mine = [
        mapping(policy.get("spec"))
        for policy in policies
        if mapping(policy.get("metadata")).get("namespace") == here.namespace
        and selects(mapping(mapping(policy.get("spec")).get("podSelector")), here.labels)
        and way in _types(mapping(policy.get("spec")))
    ]
    if not mine:
        return True  # policies isolate only whom they select
    ends = "to" if way == "Egress" else "from"
    return any(
        _port(rule, port, protocol) and _peer(rule, ends, there, here.namespace)
        for spec in mine
        for rule in maps(spec.get(way.lower()))
    )


def _types(spec: Json) -> Sequence[object]:
    return items(spec.get("policyTypes")) or (["Ingress", "Egress"] if "egress" in spec else ["Ingress"])


def _port(rule: Json, port: int, protocol: str) -> bool:
    ports = maps(rule.get("ports"))
    if not ports:
        return True
    for one in ports:
        low = one.get("port")
        if one.get("protocol", "TCP") == protocol and (low is None or _between(low, one.get("endPort", low), port)):
            return True
    return False


def _between(low: object, high: object, port: int) -> bool:
    return isinstance(low, int) and isinstance(high, int) and low <= port <= high


def _peer(rule: Json, ends: str, there: Peer, namespace: str) -> bool:
    peers = maps(rule.get(ends))
    if not peers:
        return True
    for peer in peers:
        if "ipBlock" in peer:
            # A pod's address is not for ipBlocks to match: most plug-ins treat the two apart.
            block = mapping(peer["ipBlock"])
            if there.address and _inside(there.address, block):
                return True
        elif there.namespace:
            spaces = {"kubernetes.io/metadata.name": there.namespace}
            near = (
                selects(mapping(peer["namespaceSelector"]), spaces)
                if "namespaceSelector" in peer
                else there.namespace == namespace
            )
            if near and selects(mapping(peer.get("podSelector")), there.labels):
                return True
    return False


def _inside(address: str, block: Json) -> bool:
    """Whether a block holds an address; a block that is none holds nothing (and is told by `policy`)."""
    at = ipaddress.ip_address(address)
    try:
        ipaddress.ip_network(str(block.get("cidr")))
    except ValueError:
        return False
    return at in ipaddress.ip_network(str(block.get("cidr")), strict=False) and not any(
        at in ipaddress.ip_network(str(other), strict=False) for other in items(block.get("except"))
    )


def policy(found: Json) -> Found:
    """What is wrong with one NetworkPolicy."""
    if found.get("kind") != "NetworkPolicy":
        return
    spec = mapping(found.get("spec"))
    yield from selector_terms(mapping(spec.get("podSelector")), "spec.podSelector")
    kinds = items(spec.get("policyTypes"))
    if not kinds:
        yield "network", "spec.policyTypes", "is missing: what it isolates would be guessed"
    opens = [rule for way in ("ingress", "egress") for rule in maps(spec.get(way))]
    if wide(mapping(spec.get("podSelector"))) and any(
        port.get("port") != DNS for rule in opens for port in maps(rule.get("ports")) or [{}]
    ):
        yield "network", "spec.podSelector", "is every pod, and more than names is opened"
    for way, ends in (("Ingress", "from"), ("Egress", "to")):
        rules = maps(spec.get(way.lower()))
        if rules and way not in kinds:
            yield "network", f"spec.{way.lower()}", f"has rules, and policyTypes lacks {way}"
        for number, rule in enumerate(rules):
            yield from _rule(rule, ends, f"spec.{way.lower()}[{number}]")


def _rule(rule: Json, ends: str, at: str) -> Found:
    if not maps(rule.get("ports")):
        yield "network", f"{at}.ports", "are missing: every port is open"
    for port in maps(rule.get("ports")):
        low, high = port.get("port"), port.get("endPort", port.get("port"))
        if low is None:
            yield "network", f"{at}.ports", "name no port: every one is open"
        elif isinstance(low, int) and isinstance(high, int) and (low > high or not 0 < low < 65536 or high > 65535):
            yield "network", f"{at}.ports", f"{low} to {high} are no ports"
    if not maps(rule.get(ends)):
        yield "network", f"{at}.{ends}", "is missing: open to everything"
    for number, peer in enumerate(maps(rule.get(ends))):
        place = f"{at}.{ends}[{number}]"
        if "ipBlock" in peer:
            if {"podSelector", "namespaceSelector"} & set(peer):
                yield "network", place, "is addresses and a selector at once: one of them"
            yield from _block(mapping(peer["ipBlock"]), ends, f"{place}.ipBlock")
            continue
        for key in ("podSelector", "namespaceSelector"):
            yield from selector_terms(mapping(peer.get(key)), f"{place}.{key}")
        if wide(mapping(peer.get("podSelector"))):
            yield "network", f"{place}.podSelector", "is every pod"
        if "namespaceSelector" in peer and wide(mapping(peer["namespaceSelector"])):
            yield "network", f"{place}.namespaceSelector", "is every namespace"


def _block(block: Json, ends: str, at: str) -> Found:
    try:
        found = ipaddress.ip_network(str(block.get("cidr")))
        for other in map(ipaddress.ip_network, map(str, items(block.get("except")))):
            if other.version != found.version or not other.subnet_of(found):  # type: ignore[arg-type]
                yield "network", at, f"except: {other} is no part of {found}"
        meets = _inside(METADATA[found.version], block)
    except ValueError as error:
        yield "network", at, str(error)
        return
    if ends == "from" and found.prefixlen < WIDE[found.version]:
        whom = "the whole internet" if found.prefixlen == 0 else f"every pod and host of {found}, whatever it is"
        yield "network", at, f"lets {whom} in"
    if ends == "to" and meets:
        yield "network", at, f"reaches {METADATA[found.version]}, where clouds hand out the node's credentials"


def _leaves(policies: Sequence[Json], who: Peer, port: int | None = None) -> bool:
    """Whether some policy lets a pod out to addresses or to another namespace, on a port or on any but that of DNS."""
    for policy in policies:
        spec = mapping(policy.get("spec"))
        if mapping(policy.get("metadata")).get("namespace") == who.namespace and selects(
            mapping(spec.get("podSelector")), who.labels
        ):
            for rule in maps(spec.get("egress")):
                out = any({"ipBlock", "namespaceSelector"} & set(peer) for peer in maps(rule.get("to")))
                ports = {one.get("port") for one in maps(rule.get("ports"))}
                if out and (port in ports if port else bool(ports - {DNS})):
                    return True
    return False


def flows(policies: Sequence[Json], namespace: str, *, database: bool, storage: bool, watched: bool = False) -> Found:
    """The traffic that an installation needs, and the traffic that it must not let through."""
    head, worker, submitter = (
        Peer(name, labels, namespace)
        for name, labels in zip(("head", "worker", "submitter"), job_labels(), strict=True)
    )
    mlflow = Peer("mlflow", {"app.kubernetes.io/name": "mlflow", MINE: "tracking"}, namespace)
    postgres = Peer("postgres", {"app.kubernetes.io/name": "postgres", MINE: "database"}, namespace)
    other = Peer("another pod of the namespace", {"app.kubernetes.io/name": "other"}, namespace)
    operator = Peer("operator", {"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")
    stranger = Peer(
        "a pod of another namespace", {"app.kubernetes.io/name": "mlflow", "ray.io/is-ray-node": "yes"}, "default"
    )
    prometheus = Peer("Prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
    dns = Peer("DNS", {"k8s-app": "kube-dns"}, "kube-system")
    outside, metadata = Peer("the internet", address=OUTSIDE), Peer("the node's credentials", address=METADATA[4])
    ours = (head, worker, submitter, mlflow)
    needed = [
        (submitter, head, 8265),
        (operator, head, 8265),
        (worker, head, 6379),
        (worker, head, 8265),
        (head, worker, 20000),
        (worker, worker, 45678),
        (head, mlflow, 5000),
        (worker, mlflow, 5000),
        *[(mlflow, postgres, 5432)] * database,
        *[(prometheus, who, 8080) for who in (head, worker)] * watched,
    ]
    forbidden = [
        (stranger, head, 8265),
        (stranger, head, 10001),
        (stranger, mlflow, 5000),
        (stranger, worker, 20000),
        (outside, head, 8265),
        (outside, mlflow, 5000),
        (submitter, mlflow, 5000),
        (submitter, head, 6379),
        (submitter, outside, 443),
        (mlflow, head, 8265),
        (other, head, 8265),
        (other, mlflow, 5000),
        (other, outside, 443),
        (worker, outside, 80),
        (worker, outside, 6443),
        (worker, operator, 8080),
        *[(who, metadata, port) for who in ours for port in (80, 443)],
        *[(who, postgres, 5432) for who in (head, worker, submitter, other, stranger)] * database,
    ]
    for source, target, port in needed:
        if not passes(policies, source, target, port):
            yield "network", "", f"{source.name} cannot reach {target.name} on port {port}"
    for who in ours:
        for protocol in ("UDP", "TCP"):
            if not passes(policies, who, dns, 53, protocol):
                yield "network", "", f"{who.name} cannot reach DNS ({protocol})"
    # Where the API server and the storage are, only the cluster knows: some way out has to be there.
    if not any(_leaves(policies, head, port) for port in (443, 6443)):
        yield "network", "", "head cannot reach the API server, for the autoscaler, on port 443 or 6443"
    for who in (head, worker, mlflow) if storage else ():
        if not _leaves(policies, who):
            yield "network", "", f"{who.name} cannot reach the storage: no egress to addresses or another namespace"
    for source, target, port in forbidden:
        # Where both ends are ours, each must refuse: then one policy that is lost opens nothing.
        if (
            _side(policies, "Ingress", target, source, port, "TCP")
            if target.namespace == namespace
            else passes(policies, source, target, port)
        ):
            yield "network", "", f"{source.name} reaches {target.name} on port {port}"
