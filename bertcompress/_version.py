"""The version, written once: the package and its build read it here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
