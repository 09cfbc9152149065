"""The version of casewise."""

__version__ = "1.0.0"
