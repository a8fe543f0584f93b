"""Ray, started or joined once a run, when the first stage needs it.

Without an address Ray starts on this machine (a bare `ray.init()` would silently join any cluster it finds) and is shut
down at the end. An address, or RAY_ADDRESS as Ray sets it inside a job, is joined: reached, and large enough, within 20 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput, Interrupted, Unavailable
from orchestrator.stage import Complaint, Scale

START_WITHIN_S = 60.0  # for Ray on this machine
STOP_WITHIN_S = 15.0
REVIVALS = 3  # how often a run starts its own Ray again
NODES_WITHIN_S = 300.0  # for a cluster that lost nodes to have room again
GONE_AFTER_S = 45.0  # without an answer from a joined cluster's head
LOOK_EVERY_S = 5.0
STOPPED_S = 25.0  # longer than it takes to notice that a worker of a group is silent, which says more
TIMEOUT_S = 18.0  # to reach an explicit cluster, and for it to be large enough
PROBE_S = 5.0
SETTLE_S = 6.0  # from Ray's start until what runs on it has begun: processes that import torch
PORTS = {"ray": 10001, "gcs": 6379}
SETTINGS = {  # told to Ray by environment only; what the user set wins
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the pace of Train's controller: 2 s make every start and end slow
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "180",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # then Ray ends the whole process: `died` comes before
    # Small results come back in the answer: what lies in the store of a node that dies takes the driver with it.
    "RAY_max_direct_call_object_size": str(4 << 20),
    "RAY_task_oom_retries": "3",  # Ray's own default is without end
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # the raylet's own messages would be printed among our results
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
LOCAL_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The driver would wait for its first workers while it registers; a raylet that dies meanwhile takes it along, wordless.
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(frozen=True)
class Resources:
    """What a machine or cluster has."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        cpus = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        return f"{cpus} and {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else cpus


def local_resources() -> Resources:
    """What this process may use: CPUs by affinity and control group, GPUs by their device files."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, math.ceil(int(quota) / int(period))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    gpus = len(present) if visible is None else len([one for one in visible.split(",") if one.strip() and one != "-1"])
    return Resources(cpus, min(gpus, len(present)))


def needed(scale: Scale) -> Resources:
    """What a stage's workers hold together."""
    return Resources(scale.num_workers * scale.cpus_per_worker, scale.num_workers * scale.gpus_per_worker)


def is_local(address: str | None) -> bool:
    """Whether Ray would be started on this machine."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def check_local(scale: Scale, address: str | None = None) -> Complaint | None:
    """What is wrong with `scale` on this machine, without importing Ray; None for a cluster, which is asked when joined."""
    if not is_local(address):
        return None
    need, have = needed(scale), local_resources()
    if need.cpus <= have.cpus and need.gpus <= have.gpus:
        return None
    key = (
        "num_workers"
        if need.cpus > have.cpus or scale.gpus_per_worker * scale.num_workers > have.gpus
        else "gpus_per_worker"
    )
    one = scale.num_workers == 1
    lacking = " and no GPU" if need.gpus and not have.gpus else ""
    return Complaint(
        ("scale", key),
        "too-many-workers",
        f"{scale.num_workers} worker{' needs' if one else 's need'} {need}, this machine has {have}{lacking}",
        "",
        "lower `scale`, or give the --address of a Ray cluster",
        at="stage",
    )


class RayDied(Unavailable):
    """Ray itself is gone, and everything that ran in it. What was committed stands."""


class Cluster:
    """Ray for one run. `start` is lazy and idempotent; `stop` ends what `start` began, and nothing else."""

    def __init__(
        self,
        address: str | None = None,
        *,
        log: Path | None = None,
        disabled: bool = False,
        timeout_s: float = TIMEOUT_S,
        nodes_s: float | None = None,
    ) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.log = log
        self.disabled = disabled  # stages then work in this process
        self.timeout_s = timeout_s
        self.nodes_s = nodes_s  # to wait for nodes, at first and when some are lost; None: as long as is usual
        self._owned = self._over = self._warmed = False
        self._lock = threading.Lock()
        self._busy_until = 0.0
        self._ending = threading.Event()
        self._processes: list[tuple[str, Any]] = []  # Ray's own, where they are our children
        self._heard = self._looked = 0.0
        self._died = ""
        self._stopped: dict[int, float] = {}  # process -> since when
        self.generation = 0  # how often it was started again

    @property
    def local(self) -> bool:
        """Whether the cluster is this machine, started by us."""
        return is_local(self.address)

    @property
    def started(self) -> bool:
        initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # none while another thread imports it
        return initialized is not None and bool(initialized())

    def ahead(self, modules: Iterable[str]) -> None:
        """Begin to start our own Ray, and to import modules of it, while the caller goes on: both take seconds.

        `start` waits for it. What goes wrong here shows there.
        """
        if not self.local or self.disabled or self.started:
            return
        self._busy_until = math.inf
        threading.Thread(target=self._ahead, args=(tuple(modules),), daemon=True, name="ray-ahead").start()

    def _ahead(self, modules: tuple[str, ...]) -> None:
        try:
            with contextlib.suppress(Unavailable):  # `start` tries again, and tells
                self._start(warm=False, ahead=True)
            for module in modules:
                importlib.import_module(module)
        finally:
            self._busy_until = time.monotonic() + SETTLE_S

    @property
    def busy(self) -> bool:
        """Whether Ray starts, or what runs on it does: work that can wait should."""
        return time.monotonic() < self._busy_until

    def start(self, *, warm: bool = True) -> None:
        """Start or join Ray, once. Raises errors.Unavailable within `timeout_s` where that is impossible.

        `warm`: tasks follow, for which processes are made ready. (Actors never take over the process of a task.)
        """
        if self.disabled:
            raise RuntimeError("this run works without Ray")
        self._start(warm)

    def _start(self, warm: bool, *, ahead: bool = False) -> None:
        with self._lock:
            if ahead and self._over:
                return
            _configure(self.local)
            if not self.started:
                with _signals_kept():
                    self._keep_local() if self.local else self._join()
                self._owned = True
                self._heard = self._looked = time.monotonic()
                _quiet(self.log)
            if warm and self.local and self._owned and not self._warmed:
                self._warmed = True
                _warm(int(local_resources().cpus))

    def stop(self) -> None:
        """Leave or end the Ray that `start` began."""
        with self._lock:
            self._over = True
            self._stop()

    def _stop(self) -> None:
        if not self._owned:
            return
        self._owned = False
        with _signals_kept():
            ended = threading.Thread(target=_shut_down, daemon=True, name="end-ray")
            ended.start()
            ended.join(STOP_WITHIN_S)  # a Ray that is half dead may wait for itself
        for _, process in self._processes:
            if process.poll() is None and ended.is_alive():
                process.kill()
        self._processes = []
        self._ending.set()

    # --- life and death ------------------------------------------------------------------------------------------

    def died(self) -> str:
        """What became of the started Ray, in words; "" while it lives (or was never started). Cheap."""
        if not self._owned or self._died:
            return self._died
        for name, process in self._processes:
            if (code := process.poll()) is not None:
                self._died = f"Ray died ({name} ended by {_how(code)})"
                return self._died
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return ""
        self._looked = now
        if self.local:
            self._end_stopped(now)
        else:
            self._heard = now if _listens(str(self.address)) else self._heard
            if now - self._heard > GONE_AFTER_S:
                self._died = f"the Ray cluster at {self.address} has not answered for {GONE_AFTER_S:.0f} s"
        return self._died

    def _end_stopped(self, now: float) -> None:
        """Kill what of our Ray has been stopped (SIGSTOP) for long: nobody else would ever notice, and its work waits."""
        roots = {process.pid for _, process in self._processes}
        stopped = _stopped(roots)
        self._stopped = {pid: self._stopped.get(pid, now) for pid in stopped}
        for pid, since in self._stopped.items():
            if now - since > STOPPED_S:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def revive(self, generation: int, why: str) -> bool:
        """Start our own Ray again after its death; False where another thread already did.

        `generation` is the one that died. Raises Unavailable for a joined cluster, and where it died too often.
        """
        again = "the same command goes on from what is saved"
        if not self.local:
            raise Unavailable(why, hint=again)
        with self._lock:
            if generation != self.generation:
                return False
            if self.generation >= REVIVALS:
                raise Unavailable(f"{why}, for the {REVIVALS + 1}th time in this run", hint=again)
            self.generation += 1
            self._stop()
            self._died = ""
            warm, self._warmed = self._warmed, False
        self.start(warm=warm)
        return True

    def wait_for(self, scale: Scale, say: Callable[[str], None], stopping: Callable[[], bool]) -> None:
        """Return once the living nodes have room for the workers, or a stop is asked for. Raises Unavailable, RayDied."""
        within_s = NODES_WITHIN_S if self.nodes_s is None else self.nodes_s
        if not self._grown(scale, within_s, say, stopping):
            raise Unavailable(
                f"the cluster has lost nodes: room for {_room(scale)} of {scale.num_workers} workers after "
                f"{within_s:.0f} s",
                hint="let it grow, or lower `scale`; the same command goes on from the last checkpoint",
            )

    def _grown(self, scale: Scale, within_s: float, say: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """Wait until there is room for the workers, or a stop is asked for; False where there is none in time."""
        if (room := _room(scale)) >= scale.num_workers:
            return True
        say(f"waiting for nodes: room for {room} of {scale.num_workers} workers, {within_s:.0f} s at most")
        deadline = time.monotonic() + within_s
        with _asked_for(scale):
            while _room(scale) < scale.num_workers and not stopping():
                if why := self.died():
                    raise RayDied(why)
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.5)
        return True

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- resources ---------------------------------------------------------------------------------------------

    def resources(self) -> Resources:
        """What the cluster has now."""
        self.start(warm=False)
        import ray

        total = ray.cluster_resources()
        return Resources(total.get("CPU", 0), total.get("GPU", 0))

    def room(self, scale: Scale) -> int:
        """How many such workers the living nodes hold now."""
        self.start(warm=False)
        return _room(scale)

    def check(
        self,
        scale: Scale,
        storage: Path | None = None,
        *,
        warm: bool = True,
        say: Callable[[str], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raise unless the workers fit: BadInput on this machine, Unavailable on a cluster that does not grow in time.

        `storage` is a directory that every node must see, `warm` is what `start` takes. Raises Interrupted once asked to stop.
        """
        if self.disabled:
            return
        if complaint := check_local(scale, self.address):
            raise BadInput(complaint.what, hint=complaint.hint)
        self.start(warm=warm)
        within_s = self.timeout_s * 0.75 if self.nodes_s is None else self.nodes_s
        enough = _room(scale) >= scale.num_workers if self.local else self._grown(scale, within_s, say, stopping)
        if stopping():
            raise Interrupted(signal.SIGTERM)
        if not enough:
            each = Resources(scale.cpus_per_worker, scale.gpus_per_worker)
            have = self.resources()
            raise Unavailable(
                f"the cluster is too small: {scale.num_workers} workers of {each} each are needed, it has {have}",
                hint=f"room for {_room(scale)} of them: lower `scale`, let the cluster grow, or --wait-nodes for it",
            )
        if storage is not None and not self.local:
            _check_shared(storage, self.timeout_s)

    # --- starting and joining ------------------------------------------------------------------------------------

    def _keep_local(self) -> None:
        """Start Ray from a thread that stays until `stop`; once more where something of it dies while it starts.

        Ray asks the kernel to kill its processes when their parent ends, and the kernel means the parent *thread*: started
        from a stage's own thread, the whole of Ray would be killed as that stage ends. So is what a failed start left.
        """
        self._ending.clear()
        for last in (False, True):
            failed = self._start_in_thread()
            if failed is None:
                return
            if last:
                raise failed

    def _start_in_thread(self) -> Exception | None:
        failed: list[Exception] = []
        started = threading.Event()

        def stay() -> None:
            try:
                self._start_local()
            except Exception as error:  # noqa: BLE001 - handed to the caller, below
                failed.append(error)
            started.set()
            if not failed:
                self._ending.wait()

        threading.Thread(target=stay, daemon=True, name="ray").start()
        if not started.wait(START_WITHIN_S):
            raise Unavailable(f"Ray did not start on this machine within {START_WITHIN_S:.0f} s", hint="see /tmp/ray")
        return failed[0] if failed else None

    def _start_local(self) -> None:
        import ray

        here = local_resources()
        try:
            with _session_of_its_own(), _needed_processes():
                ray.init(
                    address="local",
                    num_cpus=int(here.cpus),
                    num_gpus=int(here.gpus),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:  # Ray raises many kinds here: ports, shared memory, a full disk
            raise Unavailable(
                f"Ray did not start on this machine: {_first_line(error)}", hint="see /tmp/ray"
            ) from error
        self._processes = _own_processes()
        _protect_token()

    def _join(self) -> None:
        address = str(self.address)
        deadline = time.monotonic() + self.timeout_s
        _probe(address, min(PROBE_S, self.timeout_s))
        failed: list[BaseException] = []
        done = threading.Event()

        def connect() -> None:
            import ray

            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except BaseException as error:  # noqa: BLE001 - told by the caller, below
                failed.append(error)
            done.set()

        threading.Thread(target=connect, daemon=True, name="join-ray").start()
        if not done.wait(max(deadline - time.monotonic(), 0.1)):
            raise Unavailable(
                f"the Ray cluster at {address} gave no answer within {self.timeout_s:g} s", hint=_token_hint()
            )
        if failed:
            raise Unavailable(f"cannot join the Ray cluster at {address}: {_first_line(failed[0])}", hint=_token_hint())


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _own_processes() -> list[tuple[str, Any]]:
    """Those of Ray without which nothing works, as subprocess.Popen."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return []
    vital = ("gcs_server", "raylet")
    return [(name, info.process) for name in vital for info in node.all_processes.get(name, ())]


def _stopped(roots: set[int]) -> set[int]:
    """Which of these processes and their children are stopped."""
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):  # gone meanwhile
                state, parent, *_ = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if state == "T" and (int(entry.name) in roots or int(parent) in roots):
                    found.add(int(entry.name))
    return found


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _listens(address: str) -> bool:
    try:
        _probe(address, 1.0)
    except Unavailable:
        return False
    return True


def _configure(local: bool) -> None:
    for key, value in {**SETTINGS, **(LOCAL_SETTINGS if local else {})}.items():
        if key != "RAY_AUTH_MODE" or "ray" not in sys.modules:  # read when ray is imported: later it only confuses
            os.environ.setdefault(key, value)
    if not local and _token() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # joining never turns it on, and a guarded cluster then never answers


def _token() -> bool:
    """Whether there is a token to show; a cluster that asks for none does not mind it."""
    told = any(key in os.environ for key in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return told or (Path.home() / ".ray" / "auth_token").is_file()


def _token_hint() -> str:
    return "is the token the cluster's own?" if _token() else "a cluster with token authentication needs RAY_AUTH_TOKEN"


def _protect_token() -> None:
    """Ray writes its token readable by everyone."""
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def _probe(address: str, timeout_s: float) -> None:
    """Whether anything listens at the address at all: Ray itself would take long to notice, or end the process."""
    if address == "auto":
        return
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.split("/", 1)[0].rpartition(":")
    if not host:
        host, port = port, str(PORTS["ray" if scheme else "gcs"])
    if not port.isdigit():
        raise BadInput(f"'{address}' is no Ray address", hint="write ray://host:10001 or host:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except OSError as error:
        raise Unavailable(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _room(scale: Scale) -> int:
    """How many such workers the living nodes hold."""
    import ray

    return sum(_fits(node.get("Resources", {}), scale) for node in ray.nodes() if node_lives(node))


@contextlib.contextmanager
def _asked_for(scale: Scale) -> Iterator[None]:
    """Ask for the workers' room meanwhile: an autoscaler adds nodes only for what is wanted and cannot be placed."""
    from ray.util.placement_group import placement_group, remove_placement_group

    each = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    group = placement_group([{key: n for key, n in each.items() if n > 0}] * scale.num_workers)
    yield
    remove_placement_group(group)  # not where Ray died meanwhile: that would wait for it


def node_lives(node: Mapping[str, Any]) -> bool:
    """Whether one of `ray.nodes()` is there: the head learns of a death late, but a port that refuses tells it at once."""
    if not node.get("Alive"):
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=0.3).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # not reached from here: that says nothing
        return True
    return True


def _fits(resources: Mapping[str, float], scale: Scale) -> int:
    wanted = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    return min((int(resources.get(key, 0) / n + 1e-9) for key, n in wanted.items() if n > 0), default=scale.num_workers)


def _check_shared(storage: Path, timeout_s: float) -> None:
    """Raise Unavailable where a node does not see a directory of this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = storage / f"tmp/shared-{secrets.token_hex(8)}"  # a file: an empty directory of that name proves nothing
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()
    path = str(probe)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(lambda: os.path.exists(path))
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node.get("Alive")}
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False)).remote(): one
            for one in nodes
        }
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        blind = [nodes[asked[answer]] for answer in ready if not ray.get(answer)]
    finally:
        probe.unlink()
    if blind:
        raise Unavailable(
            f"storage {storage} is a directory of this machine, which node {blind[0]} of the cluster does not see",
            hint="use a storage that all share, like s3://bucket/runs, or a shared file system",
        )


def _warm(cpus: int) -> None:
    """One task for each CPU that imports what stages need: the first real one then starts at once. Nobody waits."""
    import ray

    def load() -> None:
        import torch  # noqa: F401

    task = ray.remote(num_cpus=1, max_retries=0)(load)
    for _ in range(cpus):
        task.remote()


def _quiet(log: Path | None) -> None:
    """Ray's messages go to `log` (or nowhere); the user sees ours."""
    target: logging.Handler = logging.NullHandler()
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = logging.FileHandler(log, delay=True)
        target.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("ray")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(target)
    logger.propagate = False
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL if log is None else logging.WARNING)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray replaces the handlers of SIGTERM, in Python and beneath it (where it prints a stack): ours come back.

    Python may set handlers in the main thread only, and stages start Ray from their own; what stands beneath Python, and
    calls its handlers, may be put back from any thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    beneath = {number: get(number) for number in numbers}
    kept: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                if handler is not None:
                    signal.signal(number, handler)
        for number, pointer in beneath.items():
            put(number, pointer)


@contextlib.contextmanager
def _session_of_its_own() -> Iterator[None]:
    """Ray's processes leave our process group: a signal to all of it (`timeout`, systemd, a closed terminal) would end Ray
    before the workers have saved. They still end with us, by the kernel's word."""
    from ray._private import services

    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def _needed_processes() -> Iterator[None]:
    """Without three processes that a cluster of one machine has no use for: the dashboard's server, which is started even
    without the dashboard, the monitor that would ask for more machines, and the one that prints workers' logs. They cost two
    seconds of processor time, and the first of them is waited for. So is the dashboard's agent: with `ray[default]` it imports
    for four seconds what only a dashboard shows, so it is told that it has as little to do as without."""
    from ray._private import node, services, utils

    kept = services.start_api_server, node.Node.start_monitor, node.Node.start_log_monitor
    full = utils.get_dashboard_dependency_error
    services.start_api_server = lambda *_, **__: (None, None)
    node.Node.start_monitor = node.Node.start_log_monitor = lambda _: None
    utils.get_dashboard_dependency_error = lambda: ImportError("there is no dashboard")
    try:
        yield
    finally:
        services.start_api_server, node.Node.start_monitor, node.Node.start_log_monitor = kept
        utils.get_dashboard_dependency_error = full


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


__all__ = ["Cluster", "RayDied", "Resources", "check_local", "is_local", "local_resources", "needed", "node_lives"]
