"""Max-pooling kernels: one algorithm a file, the same few functions in each."""
