"""Measuring: cases, workers, timing, the digits CNN, and the command line."""

__version__ = "0.1.0"
