"""``python -m cnnbench.cli``."""

from cnnbench.cli import main

main()
