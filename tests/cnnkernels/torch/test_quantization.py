"""Converted layers reject quantization; PyTorch's own layers beside them accept it."""

import pytest

from cnnkernels.contract import Unsupported

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")


@pytest.fixture
def quantization():
    return pytest.importorskip("torch.ao.quantization")


of_torch_ao = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:Please use quant_min and quant_max:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)


@pytest.fixture
def to_quantize(quantization, model):
    """Return a function that makes a model that is marked for quantization."""

    def to_quantize():
        network = model(torch.float32).train()
        network.qconfig = quantization.get_default_qat_qconfig("x86")
        return network

    return to_quantize


@of_torch_ao
@pytest.mark.parametrize("prepare", ["prepare_qat", "prepare"])
@pytest.mark.parametrize("kept", ["Conv2d", "MaxPool2d", "nothing"])
def test_converted_layers_refuse_to_be_quantized(quantization, prepare, kept, to_quantize):
    prepare = getattr(quantization, prepare)
    network = to_quantize()
    layers.convert(network, "numpy", keep=lambda _, layer: type(layer).__name__ == kept)
    with pytest.raises(Unsupported, match=r"qconfig: .*cnnkernels\.torch\.revert\(model\)"):
        prepare(network)
    right = repr(prepare(to_quantize()))
    assert repr(prepare(layers.revert(network))) == right != repr(network)


@of_torch_ao
def test_layers_that_are_kept_from_quantization_stay_converted(quantization, model, to_quantize):
    network = layers.convert(to_quantize(), "numpy")
    for layer in network:
        layer.qconfig = None
    network[-1].qconfig = network.qconfig
    prepared = quantization.prepare_qat(network)
    assert type(prepared[-1]) is torch.ao.nn.qat.Linear
    assert type(prepared[0]) is layers.Conv2d
    plain = layers.convert(model(torch.float32), "numpy")
    dynamic = quantization.quantize_dynamic(plain)
    assert type(dynamic[-1]) is torch.ao.nn.quantized.dynamic.Linear
    assert type(dynamic[0]) is layers.Conv2d


@of_torch_ao
def test_layers_marked_for_quantization_stay_pytorchs(quantization, to_quantize):
    observed = quantization.prepare(to_quantize())
    before = [type(layer) for layer in observed]
    with pytest.warns(layers.ConversionWarning, match="stays PyTorch's: its qconfig marks") as said:
        layers.convert(observed, "numpy")
    assert len(said) == 4
    assert [type(layer) for layer in observed] == before
    trained = quantization.prepare_qat(to_quantize())
    with pytest.warns(layers.ConversionWarning, match=r"0 stays.*torch\.ao\..* is derived from"):
        layers.convert(trained, "numpy", keep=lambda name, _: name != "0")
    with pytest.raises(Unsupported, match="qconfig"):
        layers.problem_of(observed[0], torch.zeros(3, 2, 6, 6))
