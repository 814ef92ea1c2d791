"""A backend for each layer of a network: measured, chosen, and tried in whole training steps."""
