"""`python -m orchestrator.kubernetes.stop`: ask the runs in this pod to save, and wait until they have.

The first process of a Ray pod is `ray start`, which ends Ray and tells a run nothing: without this (the head's `preStop`) a
run would be killed without having saved. Kubernetes counts the time as part of the pod's grace.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil

WITHIN_S = 27.0  # a run ends within 25 s


def runs() -> list[psutil.Process]:
    """Every `orchestrate run` of this user in this pod; not the shells around it, which name it too."""
    found = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, owner = process.info["cmdline"] or [], process.info["uids"]
        if owner is None or owner.real != os.getuid() or process.pid == os.getpid():
            continue
        for place in range(min(2, len(words) - 1)):  # as a script, or as an interpreter's first argument
            if Path(words[place]).name == "orchestrate" and words[place + 1] == "run":
                found.append(process)
                break
    return found


def stop(within_s: float = WITHIN_S) -> int:
    """Send SIGTERM to each, once; returns how many are still there after so many seconds."""
    asked = runs()
    for process in asked:
        try:
            process.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(asked, timeout=within_s)
    return len(left)


if __name__ == "__main__":
    sys.exit(1 if stop() else 0)
