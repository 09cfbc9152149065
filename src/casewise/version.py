"""The version of casewise."""

__version__ = "0.1.0"
