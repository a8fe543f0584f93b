"""`orchestrate k8s …` against a small API server: does each exit with the code that belongs to what happened, and say why?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import verdicts
from orchestrator.artifacts import ArtifactStore
from orchestrator.cli import invoke
from orchestrator.kubernetes import client, submit
from orchestrator.kubernetes.render import JOB
from orchestrator.verdicts import Verdict
from tests.k8s.api import DROP, FakeApi, serving

pytest.importorskip("lightkube")

ROOT = Path(__file__).parents[2]
SPEC = """\
version: 1
name: small_one
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 1000}}, num_shards: 1}}
"""
NEW: dict[str, Any] = {}
STARTS = {"jobDeploymentStatus": "Initializing"}
RUNS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "small-one-abcde"}
WELL = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
BADLY = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(submit, "POLL_S", 0.05)
    monkeypatch.setattr(submit, "DRAIN_S", 5.0)
    monkeypatch.setattr(client, "PATIENCE_S", 1.0)
    monkeypatch.setattr(client.Api.__init__, "__kwdefaults__", {"context": None, "timeout_s": 2.0, "patience_s": 1.0})
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPEC)
    with serving(tmp_path, monkeypatch) as found:
        yield found


def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "kept"))


def submitted(tmp_path: Path, *more: str) -> int:
    return invoke(["k8s", "submit", "small.yaml", "--storage", str(tmp_path / "kept"), "--name", "one", *more])


def ends_with(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: dict[str, Any]) -> None:
    """While the job is followed, its run stores this verdict."""
    real = submit.stored_verdict

    def after(storage: str, job: str, **more: Any) -> Verdict | None:
        given = {"status": "failed", "final": True, "run": "small_one-20261122-080000-ab12", **verdict}
        verdicts.write(store(tmp_path), Verdict(job=job, **given))
        return real(storage, job, **more)

    monkeypatch.setattr(submit, "stored_verdict", after)


def test_a_job_that_succeeds(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api.statuses = [NEW, NEW, STARTS, RUNS, WELL]
    assert submitted(tmp_path) == 0
    said = capfd.readouterr()
    assert "one succeeded" in said.out
    assert "one: running" in said.err
    (config,), (job,) = api.made("configmaps"), api.made("rayjobs")
    assert config["metadata"]["ownerReferences"][0] == {
        "apiVersion": "ray.io/v1", "kind": "RayJob", "name": "one", "uid": "uid-one",
    }  # fmt: skip
    assert "ring8" in config["data"]["pipeline.yaml"]
    assert job["metadata"]["annotations"][JOB] in job["spec"]["entrypoint"]


def test_each_submission_has_a_name_and_a_verdict_of_its_own(api: FakeApi, tmp_path: Path) -> None:
    where = ["--storage", str(tmp_path / "kept"), "--no-wait"]
    for _ in range(2):
        assert invoke(["k8s", "submit", "small.yaml", *where]) == 0
    names = {job["metadata"]["name"] for job in api.made("rayjobs")}
    assert len(names) == 2
    assert all(name.startswith("small-one-") for name in names)
    assert len({job["metadata"]["annotations"][JOB] for job in api.made("rayjobs")}) == 2


@pytest.mark.parametrize(
    ("verdict", "status", "code", "says"),
    [
        ({"exit_code": 3, "status": "refused", "message": "frechet_distance is 50"}, BADLY, 3, "frechet_distance is 50"),
        ({"exit_code": 5, "message": "damaged"}, BADLY, 5, "damaged"),
        ({"exit_code": 143, "status": "interrupted", "final": False}, BADLY, 143, "interrupted"),
        ({"exit_code": 0, "status": "succeeded"}, BADLY, 0, "succeeded"),  # a pod went after the run was done
        ({"exit_code": 3, "status": "diverged"}, WELL, 3, "its verdict says"),  # whatever made KubeRay think so
        ({"exit_code": 143, "status": "interrupted", "final": False}, WELL, 0, "succeeded"),  # a later attempt got through
        ({"exit_code": 143, "status": "interrupted", "final": False},
         {**BADLY, "reason": "DeadlineExceeded"}, 4, "activeDeadlineSeconds"),
    ],
)  # fmt: skip
def test_the_stored_verdict_and_the_status_together_give_the_exit_code(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    verdict: dict[str, Any], status: dict[str, Any], code: int, says: str,
) -> None:  # fmt: skip
    api.statuses = [NEW, RUNS, status]
    ends_with(api, tmp_path, monkeypatch, verdict)
    assert submitted(tmp_path) == code
    assert says in capfd.readouterr().out


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (
            {**BADLY, "message": "Job entrypoint command failed with exit code 3, last available logs: no"},
            3,
            "exit code 3",
        ),
        (BADLY, 1, "AppFailed"),
        ({**BADLY, "reason": "SubmissionFailed", "jobStatus": ""}, 4, "submitter"),
        (
            {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "bad spec"},
            2,
            "bad spec",
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 143, "stopped"),
    ],
)
def test_without_a_verdict_the_status_gives_the_exit_code(
    api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str], status: dict[str, Any], code: int, says: str
) -> None:
    api.statuses = [NEW, RUNS, status]
    assert submitted(tmp_path) == code
    assert says in capfd.readouterr().out


def pod(api: FakeApi, name: str, phase: str, component: str = "submitter", **status: Any) -> None:
    labels = {"app.kubernetes.io/instance": "one", "app.kubernetes.io/component": component}
    spec = {"containers": [{"name": "main"}]}
    api.put("pods", name, metadata={"labels": labels}, spec=spec, status={"phase": phase, **status})


def test_the_log_is_printed_once_though_its_connection_breaks_and_its_verdict_counts_where_none_is_stored(
    api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    api.statuses = [NEW] + [RUNS] * 30 + [BADLY]
    pod(api, "one-xyz", "Running")
    api.logs["one-xyz"] = [
        "first",
        "second",
        DROP,
        "third",
        DROP,
        "verdict JOB: exit 3, diverged, final, run r-1",
        "last",
    ]
    assert (
        invoke(["k8s", "submit", "small.yaml", "--storage", "s3://nowhere-8c1d/runs", "--name", "one", "--no-wait"])
        == 0
    )
    job = api.made("rayjobs")[0]["metadata"]["annotations"][JOB]
    api.logs["one-xyz"] = [line.replace("JOB", job) for line in api.logs["one-xyz"]]
    api.objects["rayjobs", "one"]["metadata"]["annotations"]["gan-orchestrator/storage"] = str(tmp_path / "nothing")
    assert invoke(["k8s", "logs", "-f", "one"]) == 3
    lines = capfd.readouterr().err.splitlines()
    assert [lines.count(text) for text in ("first", "second", "third", "last")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("refusal", "code", "says"),
    [
        ((400, 'strict decoding error: unknown field "spec.foo"'), 2, "unknown field"),
        ((422, "RayJob is invalid: spec.ttl: Invalid value"), 2, "Invalid value"),
        ((500, ".spec.foo: field not declared in schema"), 2, "not declared"),
        ((401, "Unauthorized"), 4, "log in again"),
        ((403, 'rayjobs.ray.io is forbidden: User "me" cannot patch'), 4, "Role `submitter`"),
        ((403, "exceeded quota: gan-orchestrator, requested: cpu=9"), 4, "describe quota"),
        ((404, 'namespaces "gan-orchestrator" not found'), 4, "apply k8s/"),
        ((404, b"404 page not found"), 4, "KubeRay 1.7 is not installed"),
        ((409, "Apply failed with 1 conflict: conflict with kubectl"), 6, "conflict"),
        ((503, "the server is overloaded"), 4, "overloaded"),
        ((502, b"<html>a proxy</html>"), 4, "proxy"),
        ((0, ""), 4, "does not answer"),
    ],
)
def test_what_the_server_refuses_is_told_and_leaves_nothing_behind(
    api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str], refusal: tuple[int, Any], code: int, says: str
) -> None:
    api.refuse["PATCH rayjobs"] = refusal
    assert submitted(tmp_path) == code
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not api.objects


def test_what_passes_is_tried_again(api: FakeApi, tmp_path: Path) -> None:
    api.statuses = [NEW, RUNS, WELL]
    for key in ("PATCH rayjobs", "GET rayjobs", "PATCH configmaps"):
        api.refuse[key], api.times[key] = (503, "not now"), 1
    assert submitted(tmp_path) == 0
    assert api.count("PATCH rayjobs") == 2


def test_a_connection_that_breaks_while_following_is_made_again(api: FakeApi, tmp_path: Path) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    api.statuses = [NEW, RUNS, RUNS, WELL]
    api.refuse["GET rayjobs"], api.times["GET rayjobs"] = (0, ""), 2
    assert invoke(["k8s", "logs", "-f", "one"]) == 0


def test_a_job_of_that_name_is_there(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    assert submitted(tmp_path) == 6
    assert "k8s logs -f one" in capfd.readouterr().err


def test_deleted_while_it_runs(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    api.statuses = [NEW, NEW, RUNS, None]
    assert invoke(["k8s", "logs", "-f", "one"]) == 4
    assert "was deleted" in capfd.readouterr().out


def test_timed_out_and_left_running(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api.statuses = [NEW, RUNS]
    assert submitted(tmp_path, "--timeout", "0.3") == 4
    assert "k8s logs -f one" in capfd.readouterr().err
    assert api.made("rayjobs")


def test_dry_runs_make_nothing(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submitted(tmp_path, "--dry-run", "server") == 0
    assert all("dryRun=All" in line for line in api.asked if line.startswith("PATCH"))
    assert api.count("PATCH") == 2
    before = len(api.asked)
    assert submitted(tmp_path, "--dry-run", "client") == 0
    assert "kind: RayJob" in capfd.readouterr().out
    assert len(api.asked) == before
    assert not api.objects


def test_json_has_the_verdict_and_nothing_else_on_stdout(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    api.statuses = [NEW, RUNS, BADLY]
    ends_with(api, tmp_path, monkeypatch, {"exit_code": 3, "status": "refused"})
    assert submitted(tmp_path, "--json") == 3
    told = json.loads(capfd.readouterr().out)
    assert (told["exit_code"], told["state"], told["verdict"]["status"]) == (3, "failed", "refused")


def test_no_cluster_and_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPEC)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert invoke(["k8s", "status"]) == 4
    assert "KUBECONFIG" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "lightkube", None)
    assert invoke(["k8s", "status"]) == 4
    assert "gan-orchestrator[k8s]" in capfd.readouterr().err
    assert invoke(["k8s", "render", "small.yaml"]) == 0


def test_ctrl_c_detaches_and_says_how_to_follow(api: FakeApi, tmp_path: Path) -> None:
    api.statuses = [NEW, RUNS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    program = "from orchestrator.cli import main; main()"
    for number in (signal.SIGINT, signal.SIGTERM):
        api.objects.clear()
        process = subprocess.Popen(
            [sys.executable, "-c", program, "k8s", "submit", "small.yaml", "--storage", str(tmp_path / "kept"),
             "--name", "one"],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        end = time.monotonic() + 60
        while not api.made("rayjobs") or api.count("GET pods") == 0:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number, said
        assert "orchestrate k8s logs -f one" in said
        assert api.made("rayjobs")
        api.asked.clear()


# --- status, delete, debug ----------------------------------------------------------------------------------------------


def test_status_lists_and_tells(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    capfd.readouterr()
    api.statuses = [BADLY]
    assert invoke(["k8s", "status"]) == 0
    assert "one" in capfd.readouterr().out
    assert invoke(["k8s", "status", "one", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["exit_code"] == 1
    assert invoke(["k8s", "status", "two"]) == 2


def test_delete_needs_a_yes(api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    assert invoke(["k8s", "delete", "one"]) == 2
    assert "--yes" in capfd.readouterr().err
    assert invoke(["k8s", "delete", "one", "--dry-run"]) == 0
    assert api.made("rayjobs")
    assert invoke(["k8s", "delete", "one", "--yes"]) == 0
    assert not api.made("rayjobs")
    assert invoke(["k8s", "delete", "one", "--yes"]) == 2


def event(api: FakeApi, about: str, reason: str, message: str) -> None:
    api.put("events", f"{about}.{reason}", type="Warning", reason=reason, message=message, involvedObject={"name": about},
            lastTimestamp="2026-11-22T08:01:00Z")  # fmt: skip


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}]}


@pytest.mark.parametrize(
    ("about", "says"),
    [
        (("Pending", waiting("ImagePullBackOff", "manifest unknown")), ["gets no image: manifest unknown", "--pull-secret"]),
        (("Pending", waiting("CreateContainerConfigError", 'secret "storage" not found')), ['secret "storage" not found']),
        (("Failed", {"containerStatuses": [{"name": "main", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
         ["more memory than its limit", "--memory"]),
        (("Running", {"containerStatuses": [{"name": "main", "restartCount": 2, "state": {"running": {}},
          "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}), ["more memory than its limit"]),
        (("Failed", {"reason": "Evicted", "message": "The node was low on resource: memory."}), ["was put out"]),
        (("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), ["free GPUs", "--gpus"]),
        (("FailedScheduling", "0/3 nodes are available: 2 Insufficient cpu, 1 Insufficient memory."), ["CPUs", "memory"]),
        (("FailedScheduling", 'persistentvolumeclaim "runs" not found'), ["claim runs does not exist", "--storage s3://"]),
        (("FailedCreate", 'pods "one-head" is forbidden: violates PodSecurity "restricted:latest"'), ["`restricted`"]),
        (("FailedCreate", 'pods "one-head" is forbidden: exceeded quota: gan-orchestrator'), ["quota has no room"]),
        (("FailedCreate", 'error looking up service account: serviceaccount "ray" not found'), ["ServiceAccount"]),
        (("FailedMount", 'MountVolume.SetUp failed: configmap "one-pipeline" not found'), ["ConfigMap one-pipeline"]),
    ],
)  # fmt: skip
def test_debug_says_in_plain_words_what_is_wrong(
    api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str], about: tuple[str, Any], says: list[str]
) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    api.statuses = [{**STARTS, "conditions": [{"type": "Ready", "status": "False", "reason": "Waiting"}]}]
    kind, what = about
    if isinstance(what, dict):
        pod(api, "one-head", kind, "ray-head", **what)
    else:
        pod(api, "one-head", "Pending", "ray-head")
        event(api, "one-head", kind, what)
    capfd.readouterr()
    assert invoke(["k8s", "debug", "one"]) == 0
    text = capfd.readouterr().out
    for one in says:
        assert one in text
    assert "RayJob Ready=False Waiting" in text
    assert invoke(["k8s", "debug", "one", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["findings"]


def test_debug_of_a_healthy_job_and_of_what_may_not_be_read(
    api: FakeApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submitted(tmp_path, "--no-wait") == 0
    api.statuses = [RUNS]
    pod(api, "one-xyz", "Running")
    api.logs["one-xyz"] = ["step 10"]
    api.refuse["GET events"] = (403, "events is forbidden")
    capfd.readouterr()
    assert invoke(["k8s", "debug"]) == 0
    text = capfd.readouterr().out
    assert "nothing wrong is known" in text
    assert "step 10" in text
    assert "events is forbidden" in text
