"""Kubernetes quantities: 500m, 4Gi, 1e3."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?(\d+(\.\d*)?|\.\d+))?")
UNITS: dict[str, Decimal] = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate(("K", "M", "G", "T", "P", "E"), 1)}
MOST_CPUS = 448  # of one node


def quantity(value: Any) -> Decimal | None:
    """A quantity as a number (4Gi: bytes), None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str) or not QUANTITY.fullmatch(value):
        return None
    found = re.fullmatch(r"(.*?)([KMGTPE]i|[numkMGTPE])?", value)
    assert found is not None
    return Decimal(found[1]) * UNITS[found[2] or ""]


def whole(value: Any, otherwise: int) -> int:
    """An integer as it is, anything else as `otherwise`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def strange(name: str, value: Any) -> str:
    """What is odd with an amount of a resource that is one all the same: memory of `512m` is half a byte. "" for nothing."""
    amount = quantity(value)
    if amount is None or amount <= 0:
        return ""
    if name in ("memory", "ephemeral-storage", "storage"):
        if amount != amount.to_integral_value():
            return f"{value} is a part of a byte: m means a thousandth; write {str(value).rstrip('m')}Mi"
        if amount < 2**20:
            return f"{value} is {amount} bytes; write a unit as Mi or Gi"
    if name == "cpu" and amount > MOST_CPUS:
        return f"{value} is more CPUs than any node has; thousandths are written as 500m"
    return ""


__all__ = ["QUANTITY", "UNITS", "quantity", "strange", "whole"]
