"""Kinds of target: a number, one of several classes, a grade. What depends on the kind is asked of the kind.

A new kind is one class with the members of `TargetKind`, registered here, and one with those of
`casewise.models.outputs.NetworkKind` for the network's side.
"""

from casewise.targets.registry import by_form, kind_named, kind_names, register_kind, unregister_kind

__all__ = ["by_form", "kind_named", "kind_names", "register_kind", "unregister_kind"]
