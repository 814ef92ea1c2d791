"""Corner cases: small problems with awkward shapes, on which kernels often fail.

Some follow oneDNN's benchdnn (inputs/conv/shapes_basic, inputs/pool/shapes_basic): plain, tail
channels, strided tails, grouped, depthwise, padding as large as the kernel. The rest are our own.
"""

_CONVOLUTIONS = (
    # first layers, tails of channels, strides
    "mb2ic3ih8oc16oh8kh3ph1",
    "mb2ic3ih8oc17oh4kh3ph1sh2",
    "mb2ic3ih9oc8oh5kh7ph3sh2",
    "mb3ic16ih8oc16oh8kh3ph1",
    "mb2ic17ih8oc17oh8kh3ph1",
    "mb2ic17ih8oc17oh4kh3ph1sh2",
    "mb2ic5ih10oc33oh3kh4ph0sh3",
    # 1x1
    "mb2ic16ih7oc32oh7kh1ph0",
    "mb2ic17ih8oc17oh4kh1ph0sh2",
    "mb1ic1ih1oc1oh1kh1ph0",
    # groups and depthwise
    "g2mb2ic16ih8oc32oh8kh3ph1",
    "g3mb2ic9ih8oc6oh4kh3ph1sh2",
    "g17mb2ic17ih8oc17oh8kh3ph1",
    "g17mb2ic17ih8oc17oh4kh3ph1sh2",
    "g4mb2ic4ih6oc12oh6kh3ph1",
    # padding as large as the kernel, and larger than the image
    "mb2ic4ih8oc5oh12kh3ph3",
    "mb2ic17ih8oc17oh5kh3ph3sh2",
    "mb1ic2ih2oc3oh8kh3ph4",
    # asymmetric padding: 'same' of an even kernel, one side only, each axis another
    "mb2ic3ih8oc4oh8kh2ph0",
    "mb2ic4ih8oc6oh4kh3ph0sh2",
    "mb2ic3ih7iw6oc4oh7ow8kh3kw4ph2pw3",
    # dilation
    "mb2ic4ih9oc5oh9kh3ph2dh1",
    "mb2ic4ih9iw12oc5oh3ow8kh2kw3sh2sw1ph0pw1dh3dw2",
    "g2mb2ic4ih11oc6oh6kh3sh2ph3dh2",
    # not square, kernels of one row or one column, strides beyond the kernel
    "mb2ic6ih5iw13oc7oh5ow13kh3kw3ph1pw1",
    "mb2ic3ih6iw9oc4oh6ow5kh1kw5ph0pw0",
    "mb2ic3ih9iw6oc4oh5ow6kh5kw1ph0pw0",
    "mb2ic3ih11iw7oc4oh3ow3kh2kw2sh4sw3ph0pw1",
    # widths that fill no vector, one image, a kernel as large as the image
    "mb1ic8ih4oc16oh4kh3ph1",
    "mb1ic8ih7oc24oh7kh3ph1",
    "mb1ic4ih14oc20oh14kh3ph1",
    "mb3ic4ih5oc6oh1kh5ph0",
    "mb1ic3ih33oc5oh17kh3ph1sh2",
    # without bias, float64, no images
    "mb2ic5ih8oc6oh8kh3ph1bias0",
    "mb2ic17ih8oc17oh4kh3ph1sh2f64",
    "g2mb2ic4ih9oc6oh9kh3ph2dh1bias0f64",
    "mb0ic3ih8oc4oh8kh3ph1",
)

_POOLINGS = (
    # windows side by side, overlapping, with gaps
    "mb2ic3ih8oh4kh2sh2ph0",
    "mb2ic17ih9oh4kh3sh2ph0",
    "mb2ic4ih8oh8kh3sh1ph1",
    "mb2ic4ih10oh4kh1sh3ph0",
    "mb2ic4ih11oh3kh2sh4ph0",
    # padded, in ceil mode, not square
    "mb2ic5ih11oh6kh3sh2ph1",
    "mb2ic5ih12oh6kh3sh2ph0",
    "mb2ic3ih7iw12oh4ow5kh2kw4sh2sw3ph1pw2",
    # dilated, the whole image, one pixel
    "mb2ic3ih9oh7kh2sh1ph0dh1",
    "mb2ic3ih10oh5kh3sh2ph1dh1",
    "mb3ic6ih7oh1kh7sh7ph0",
    "mb1ic1ih1oh1kh1sh1ph0",
    # one image, float64, no images
    "mb1ic2ih30oh15kh2sh2ph0",
    "mb2ic3ih9oh5kh3sh2ph1f64",
    "mb0ic3ih8oh4kh2sh2ph0",
)

CORNER: tuple[str, ...] = _CONVOLUTIONS + _POOLINGS
"""Descriptors of the problems that every backend must compute correctly."""

CORNER_ONNX: tuple[str, ...] = (
    "mb2ic3ih6oh8kh3sh1ph2",
    "mb2ic3ih5iw6oh5ow6kh2kw2sh1sw1ph1pw0",
    "mb2ic3ih8oh9kh3sh1ph2",
    "mb2ic2ih4oh7kh4sh1ph3",
)
"""Max-pools that ONNX allows and PyTorch rejects: padding above half the kernel, or uneven."""
