"""Saliency maps of a finished run: computed, mapped back to the original images, shown, and measured against masks."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Explain(Plugin):
    name = extra = "explain"
    report = "casewise.plugins.explain.report_section"
    command = ("explain", "Compute saliency maps of a run, and measure them.")
    functions = (
        ("stored", "results:read_results"),
        ("explain_case", "run:explain_case"),
        ("explainable", "new_cases:explainable"),
        ("target_of", "methods.target:ExplainTarget.of_outcome"),
        ("explain_new", "new_cases:explain_new"),
        ("overlay", "overlays:overlay"),
    )


plugin = _Explain()
