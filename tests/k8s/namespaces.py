"""Pods without Kubernetes: each a network, mount, process and IPC namespace of its own, run as the rendered document says.

A switch (a bridge in a namespace of its own) stands for the cluster's network, one more namespace for what is outside of
it (the S3 server). A pod has uid 1000, no capability, no way to get one, and a root that cannot be written; its emptyDirs
are tmpfs, its ConfigMap is a read-only file. What KubeRay's operator adds (commands, token, addresses) is added here.

Programs are this machine's and its environment's; with ORCHESTRATOR_IMAGE_ROOT, an unpacked image of `k8s/Containerfile`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
PYTHON = Path(os.path.realpath(sys.executable)).parents[1]
SITE = [Path(one).resolve() for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]  # as this process has
IMAGE = os.environ.get("ORCHESTRATOR_IMAGE_ROOT", "")
BIN = "/opt/venv/bin" if IMAGE else f"{VENV}/bin"
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("bin", "lib", "lib64", "sbin", "usr")
SETTINGS = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "ssl")  # of the machine, below /etc
SPACES = ("--mount", "--pid", "--ipc", "--uts", "--net", "--fork")
PROBLEM = next(
    (
        what
        for what, lacks in (
            ("needs root, for namespaces", os.geteuid() != 0),
            ("needs ip (iproute2), unshare, nsenter and setpriv (util-linux)",
             not all(map(shutil.which, ("ip", "unshare", "nsenter", "setpriv", "chroot")))),
            ("may not make namespaces here",
             shutil.which("unshare") is None or subprocess.run(["unshare", *SPACES, "true"], check=False).returncode != 0),
        )
        if lacks
    ),
    "",
)  # fmt: skip


def sh(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


@dataclass
class Network:
    """A switch and what hangs on it. Everything is gone after `close`."""

    tag: str = field(default_factory=lambda: f"o{secrets.token_hex(2)}")
    hosts: dict[str, str] = field(default_factory=dict)  # name -> address

    def __post_init__(self) -> None:
        self.switch = f"{self.tag}-switch"
        sh("ip", "netns", "add", self.switch)
        sh("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", self.switch, "link", "set", "bridge", "up")

    def add(self, name: str) -> str:
        """A host of this name; its namespace. Each has an address of its own, also one that comes back."""
        namespace, number = f"{self.tag}-{name}", len(self.hosts) + 2
        address = f"10.213.77.{number}"
        sh("ip", "netns", "add", namespace)
        sh(
            "ip",
            "-n",
            namespace,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            f"p{number}",
            "netns",
            self.switch,
        )
        sh("ip", "-n", self.switch, "link", "set", f"p{number}", "master", "bridge", "up")
        sh("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            sh("ip", "-n", namespace, "link", "set", link, "up")
        sh("ip", "-n", namespace, "route", "add", "default", "via", "10.213.77.1")
        self.hosts[name] = address
        return namespace

    def close(self) -> None:
        for name in (*self.hosts, "switch"):
            subprocess.run(["ip", "netns", "del", f"{self.tag}-{name}"], capture_output=True, check=False)


@dataclass
class Pod:
    """A running pod: `process` outside is `unshare`, whose child is the pod's first process."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def first(self) -> int:
        """The pod's first process, as seen from here."""
        end = time.monotonic() + 10
        while not (found := psutil.Process(self.process.pid).children()) and time.monotonic() < end:
            time.sleep(0.05)
        assert found, f"pod {self.name} is gone: {self.said()[-2000:]}"
        return int(found[0].pid)

    def exec(self, *command: str, env: Json | None = None, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """What `kubectl exec`, and the kubelet for a hook, do: another process in the pod."""
        settings = [f"{key}={value}" for key, value in {**environment({}), **(env or {})}.items()]
        whole = [
            "nsenter",
            "--target",
            str(self.first),
            "--all",
            "--root",
            "--wd",
            "env",
            "-i",
            *settings,
            *drop(),
            *command,
        ]
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout, check=False)

    def kill(self) -> None:
        """The node is gone: nobody is asked anything."""
        if self.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
                os.kill(self.first, signal.SIGKILL)  # the first process of a namespace takes all others with it
        self.process.wait(30)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def drop() -> list[str]:
    """As a restricted container: uid 1000, no capabilities, no way to gain any."""
    return ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
            "--no-new-privs"]  # fmt: skip


def environment(container: Json) -> dict[str, str]:
    """The container's variables, and the image's own."""
    code = os.pathsep.join([str(ROOT), *(f"/opt/site{n}" for n, _ in enumerate(SITE))])
    given = {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}
    return {
        "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
        **({} if IMAGE else {"PYTHONPATH": code}),
        "LANG": "C.UTF-8",
        "HOME": "/home/ray",
        **given,
    }


def programs() -> list[str]:
    """Shell commands that put what runs into the root that is the working directory."""
    steps = []
    for one in (*SYSTEM, *(["opt"] if IMAGE else [])):
        place = Path(f"{IMAGE}/{one}")
        if place.is_symlink():
            steps.append(f"ln -s {os.readlink(place)} {one}")
        else:
            steps.append(f"mkdir -p {one} && mount --rbind {place} {one} && mount -o remount,bind,ro {one}")
    if IMAGE:
        return steps
    for number, path in enumerate(SITE):  # elsewhere: /tmp, say, is the pod's own
        steps.append(f"mkdir -p opt/site{number} && mount --bind {path} opt/site{number}")
    return steps + project(lambda path: True)


def project(chosen: Callable[[Path], bool]) -> list[str]:
    """Shell commands that show the project and its Python, as far as they are `chosen`, at their own places."""
    paths = [] if IMAGE else [ROOT, PYTHON, *([VENV] if not VENV.is_relative_to(ROOT) else [])]
    return [
        f"mkdir -p .{path} && mount --bind {path} .{path} && mount -o remount,bind,ro .{path}"
        for path in paths
        if chosen(path)
    ]


def run(
    network: Network, name: str, template: Json, script: str, *, folder: Path, config: Json, env: Json, hosts: Json
) -> Pod:
    """Start a pod of this template whose container runs `script` in bash."""
    spec = template["spec"]
    container = spec["containers"][0]
    own, context = container["securityContext"], spec["securityContext"]
    assert own["readOnlyRootFilesystem"] and own["runAsUser"] == context["runAsUser"] == 1000
    assert own["capabilities"] == {"drop": ["ALL"]} and own["allowPrivilegeEscalation"] is False
    namespace = network.add(name)
    root, files = folder / f"{name}-root", folder / f"{name}-config"
    root.mkdir()
    files.mkdir()
    for key, text in config["data"].items():
        (files / key).write_text(text)
    names = folder / f"{name}-hosts"
    lines = {"localhost": "127.0.0.1", name: network.hosts[name], **hosts}
    names.write_text("".join(f"{address} {host}\n" for host, address in lines.items()))
    volumes = {one["name"]: one for one in spec["volumes"]}
    mounts = sorted(container["volumeMounts"], key=lambda one: len(one["mountPath"]))
    steps = ["set -e", f"mount -t tmpfs -o mode=755 tmpfs {root}", f"cd {root}"]
    steps += programs()
    steps += [
        "mkdir -p proc dev sys",
        "mount -t proc proc proc",
        "mount --rbind /sys sys",
        "mount -o remount,bind,ro sys",
    ]
    steps += [f"touch dev/{one} && mount --bind /dev/{one} dev/{one}" for one in DEVICES]
    steps += ["ln -s /proc/self/fd dev/fd", "mkdir etc && mount -t tmpfs -o mode=755 tmpfs etc"]
    steps += [f"cp -r {IMAGE}/etc/{one} etc/{one}" for one in SETTINGS if Path(f"{IMAGE}/etc", one).exists()]
    steps.append(f"cp {names} etc/hosts && chmod 644 etc/hosts")
    for mount in mounts:
        volume, path = volumes[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume:
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i")
            steps.append(f"mkdir -p .{path} && mount -t tmpfs -o uid=1000,gid=1000,mode=2770,size={size} tmpfs .{path}")
        elif "configMap" in volume:
            steps.append(f"mkdir -p .{path} && cp {files}/* .{path}/ && chmod 644 .{path}/*")
    places = [mount["mountPath"] for mount in mounts]
    steps += project(lambda path: any(path.is_relative_to(place) for place in places))  # a checkout in /tmp, say
    steps += ["mount -o remount,ro etc", "mount -o remount,ro ."]
    settings = {**environment(container), **env, "HOSTNAME": name}
    inner = ["env", "-i", *(f"{key}={value}" for key, value in settings.items()), *drop(), "bash", "-c", script]
    steps.append(f"ulimit -c 0; exec chroot . {shlex.join(inner)}")
    program = folder / f"{name}.sh"
    program.write_text("\n".join(steps))
    command = ["ip", "netns", "exec", namespace, "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
               "bash", str(program)]  # fmt: skip
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    return Pod(name, network.hosts[name], process, log)


# --- what KubeRay's operator makes of a RayJob ---------------------------------------------------------------------------


def start_command(params: Json, *, head: bool, memory: int, head_name: str = "") -> str:
    """`ray start`, as the operator writes it."""
    given = {"dashboard-agent-listen-port": "52365", "metrics-export-port": "8080", "memory": str(memory), **params}
    where = "--head" if head else f"--address={head_name}:6379"
    return f"ulimit -n 65536; ray start {where} --block " + " ".join(f"--{key}={value}" for key, value in given.items())


def submit_command(entrypoint: str) -> str:
    """The submitter's own, with the entrypoint unquoted in it."""
    at = "--address http://$RAY_DASHBOARD_ADDRESS"
    return (
        "if ! ray job status " + at + " $RAY_JOB_SUBMISSION_ID >/dev/null 2>&1 ; "
        "then ray job submit " + at + " --no-wait --submission-id $RAY_JOB_SUBMISSION_ID -- " + entrypoint + " ; fi ; "
        "ray job logs " + at + " --follow $RAY_JOB_SUBMISSION_ID"
    )


def job_status(head: Pod, job: str, token: Json) -> Json:
    """What the operator asks the head's dashboard for."""
    program = (
        "import os, urllib.request as u; "
        f"r = u.Request('http://127.0.0.1:8265/api/jobs/{job}'); "
        "r.add_header('Authorization', 'Bearer ' + os.environ['RAY_AUTH_TOKEN']); "
        "print(u.urlopen(r, timeout=10).read().decode())"
    )
    done = head.exec("python", "-c", program, env=token)
    return json.loads(done.stdout) if done.returncode == 0 else {"status": "", "message": done.stderr[-500:]}


def ready(head: Pod, token: Json) -> bool:
    """What the operator waits for before it submits: the head's dashboard answers."""
    return "not found" in job_status(head, "none", token)["message"].lower()


def wait_for(true: Any, within_s: float, pods: Sequence[Pod], what: str) -> Any:
    end = time.monotonic() + within_s
    while not (found := true()):
        logs = "\n".join(f"--- {pod.name}\n{pod.said()[-3000:]}" for pod in pods)
        assert time.monotonic() < end, f"{what}\n{logs}"
        time.sleep(1)
    return found
