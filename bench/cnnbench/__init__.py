"""Measuring: cases, workers, timing, the digits CNN, and the command line."""
