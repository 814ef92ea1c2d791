"""Max-pooling kernels, one algorithm per file, all with the same functions."""
