"""Processes that check, time and train backends and programs, one each."""
