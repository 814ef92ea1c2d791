"""Rows to what a person reads."""
