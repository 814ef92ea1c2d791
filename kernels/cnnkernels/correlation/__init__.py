"""Direct correlations on vector registers: what `convolution.numba_simd` is made of.

`plan` says what there is to do; `panels` does any correlation, `planes` those with few filters in a
group, `batch` those of tiny images in large batches, and `weights` is backward-weights.
"""
