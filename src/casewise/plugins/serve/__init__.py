"""A trained model as a local web service: a JSON interface, and one page for a browser."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Serve(Plugin):
    name = "serve"
    extra = "serve"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.serve.command import serve

        return [Command("serve", serve, "Offer a trained model as a page on this computer.")]


plugin = _Serve()
