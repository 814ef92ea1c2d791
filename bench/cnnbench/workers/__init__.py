"""Processes of their own, in which backends and programs are checked, timed and trained with."""
