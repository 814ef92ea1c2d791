"""Direct correlations on vector registers: what `convolution.numba_simd` is made of.

`plan` says what there is to do; `panels` does any correlation, `filters` those whose windows have
several pixels, `planes` those with few filters in a group, `batch` those of tiny images, `lanes`
depthwise ones of small images, and `weights` is backward-weights.
"""
