"""Nightmarket: the nightly marketing desk of an online shop."""

__version__ = "0.1.0"
