"""The digits CNN: its data, its layers over any backend's arrays, and its training."""
