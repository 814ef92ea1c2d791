"""Choose a backend for each layer of a network, and measure it in whole training steps."""
