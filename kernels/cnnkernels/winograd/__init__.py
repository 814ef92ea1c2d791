"""Winograd's convolution F(m x m, 3 x 3): its transforms, the algorithm in NumPy, its accuracy."""
