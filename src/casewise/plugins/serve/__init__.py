"""A trained model as a local web service: a JSON interface, and one page for a browser."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Serve(Plugin):
    name = extra = "serve"
    command = ("serve", "Offer a trained model as a page on this computer.")


plugin = _Serve()
