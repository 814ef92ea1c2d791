"""What a measured time is held against: the machine, the noise on it, and the baseline."""
