"""Kinds of target: a number, one of several classes, a grade. Everything that depends on the kind is defined here.

A new kind is a class with the members of `TargetKind`, registered here, and a class with those of
`casewise.models.outputs.NetworkKind` for the network.
"""

from casewise.targets.registry import by_form, kind_named, kind_names, register_kind, unregister_kind

__all__ = ["by_form", "kind_named", "kind_names", "register_kind", "unregister_kind"]
