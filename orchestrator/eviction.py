"""Whether the node of this process is to end: Ray marks its node as draining when `ray start` gets SIGTERM, and waits 30 s.

In a pod that is the only word of it: the signal goes to the pod's first process, which is Ray's, and a run would be killed
with it. (`kubernetes.stop` tells a run sooner, where the pod's `preStop` is run.)
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster

LOOK_EVERY_S = 1.5


class Eviction:
    """Looks from a thread of its own, for a head that is going away may be slow to answer."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._thread: threading.Thread | None = None
        self._announced = False

    def announced(self) -> bool:
        """Never for a Ray of our own, nor where this process is not on one of the cluster's nodes. Costs nothing."""
        if self._thread is None and self._joined():
            self._thread = threading.Thread(target=self._look, daemon=True, name="eviction")
            self._thread.start()
        return self._announced

    def _joined(self) -> bool:
        return not self.cluster.local and not str(self.cluster.address).startswith("ray://") and self.cluster.started

    def _look(self) -> None:
        import ray
        from ray._private.state import state

        pause = threading.Event()
        while not self._announced and self.cluster.started:
            try:
                self._announced = ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
            except Exception:  # noqa: BLE001 - a cluster that does not answer is told of elsewhere (`Cluster.died`)
                pause.wait(LOOK_EVERY_S)
            pause.wait(LOOK_EVERY_S)


__all__ = ["Eviction"]
