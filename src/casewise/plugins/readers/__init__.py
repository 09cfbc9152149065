"""Reader studies: scores of readers in the browser, their agreement, and a comparison of readers with a model."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Readers(Plugin):
    name = "readers"
    extra = "serve"
    keys = (("", "settings:ReadingKeys"),)

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.readers import command

        return [
            Command("rate", command.rate, "Score the cases of a study in the browser, blind."),
            Command("agreement", command.agreement, "How far readers agree, and a model with them."),
            Command("plan-size", command.plan_size, "How many subjects and readers a study needs."),
        ]


plugin = _Readers()
