"""Training methods of the publications that presets repeat, which no planned study uses."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Published(Plugin):
    name = "published"
    report = "casewise.plugins.published.image_split_section"
    functions = (
        ("learn", "unfreezing:learn"),
        ("choose_inside", "inner_folds:choose_inside"),
        ("fixed_panels", "copies:fixed_panels"),
        ("parameter_groups", "layer_rates:parameter_groups"),
        ("training_facts", "report_section:facts"),
        ("training_curves", "report_section:curves"),
        ("findings", "image_split:findings"),
        ("further_results", "image_split:further_results"),
    )
    keys = (("panels", "settings:PanelsKeys"), ("recipe", "settings:RecipeKeys"))

    def register(self) -> None:
        from casewise.plugins.published.backbones import UNets
        from casewise.study.sources import register_source

        register_source(UNets())


plugin = _Published()
