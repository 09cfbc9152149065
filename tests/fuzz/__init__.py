"""Mutated inputs for every reader of the product: each is read, or refused with a typed error that has a message.

`python -m tests.fuzz` reads them in a process of their own, so that a crash or a hang is counted and not suffered.
"""
