"""The column of the table that the audit found to predict the classes, to stand beside the AUROC of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casewise.audit.findings import PROBES
from casewise.audit.metadata import is_usual

__all__ = ["leading_column"]


def leading_column(
    record: Mapping[str, Any] | None, target: str, named: Sequence[str] | None = None
) -> dict[str, Any] | None:
    """The column of the most serious finding of `audit.json` on a target with classes: `name`, `value`, `by_class`.

    Columns with usual names and those `named` in the study count, because others may be a consequence of the disease.
    Of equally serious findings the source comes first, then the column that predicts best. None without such a finding.

    >>> figures = {"target": "label", "evidence": "site", "value": 0.9, "by_class": {"ill": 0.9, "well": 0.9}}
    >>> finding = {"id": "shortcut-site", "level": "error", "figures": figures}
    >>> leading_column({"findings": [finding]}, "label")["value"], leading_column({"findings": []}, "label")
    (0.9, None)
    """
    for finding in (record or {}).get("findings", []):
        figures = finding.get("figures") or {}
        name = str(figures.get("evidence") or "")
        if not finding["id"].startswith("shortcut-") or finding["level"] == "note" or figures.get("target") != target:
            continue
        if name.partition(" (")[0] in PROBES or not figures.get("by_class"):
            continue
        if is_usual(name) or name in (named or ()):
            return {"name": name, "value": figures["value"], "by_class": figures["by_class"]}
    return None
