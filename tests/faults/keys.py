"""Prints the keys, foresights and sources of every pipeline's first stages: compared between processes by a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import orchestrator
from orchestrator.artifacts import digest_json


def main(storage: str) -> None:
    found = {}
    for path in sorted(Path("pipelines").glob("*.yaml")):
        plan = orchestrator.plan(path, storage=storage)
        steps = {s.step.id: [s.step.params, s.facts, s.reason, s.sealed and s.sealed.ingredients] for s in plan.steps}
        found[path.stem] = [plan.digest, json.loads(json.dumps(steps, default=list))]
    print(json.dumps({name: [digest_json(one), one] for name, one in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
