"""Madang: from the accelerators an organisation has to verified AI services that people use."""

__version__ = "0.1.0"
