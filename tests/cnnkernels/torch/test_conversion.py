"""Converted models keep their layers, state and hooks, and can be reverted."""

import pickle

import pytest

from cnnkernels.contract import Conv2D, MaxPool2D, Unsupported

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn
parametrizations = nn.utils.parametrizations


def test_a_converted_model_computes_the_same(backend, draw, model, close_steps):
    x = draw(3, 2, 6, 6, grad=False)
    plain, converted = model(), layers.convert(model(), backend)
    assert [type(layer) for layer in converted if isinstance(layer, nn.Conv2d)] == [
        layers.Conv2d
    ] * 2
    close_steps(converted, plain, x)


def test_state_goes_both_ways(model):
    plain, converted = model(), layers.convert(model(), "numpy")
    assert list(plain.state_dict()) == list(converted.state_dict())
    converted.load_state_dict(plain.state_dict())
    plain.load_state_dict(converted.state_dict())


def test_conversion_keeps_layers_hooks_and_parameters(draw, model):
    network = model()
    called = []
    network[0].register_forward_hook(lambda *_: called.append(1))
    before = list(network), list(network.parameters())
    assert layers.convert(network, "numpy") is network
    assert all(a is b for a, b in zip(before[0], network, strict=True))
    assert all(a is b for a, b in zip(before[1], network.parameters(), strict=True))
    network(draw(1, 2, 6, 6))
    assert called == [1]
    assert "backend='numpy'" in repr(network)


def test_revert_gives_pytorchs_layers_back(draw, close, model):
    network = layers.convert(model(), "numpy")
    layers.convert(network, "naive")
    assert network[0].backend == "naive"
    layers.revert(network)
    assert {type(layer) for layer in network if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    assert repr(network) == repr(model())
    close(network(x := draw(2, 2, 6, 6)), model()(x))


def test_what_cannot_be_converted_is_left_and_said():
    class Special(nn.Conv2d):
        pass

    network = nn.ModuleDict(
        {
            "special": Special(1, 1, 3),
            "indices": nn.MaxPool2d(2, return_indices=True),
            "plain": nn.Conv2d(1, 1, 3),
            "kept": nn.Conv2d(1, 1, 3),
        }
    )
    with pytest.warns(layers.ConversionWarning) as said:
        layers.convert(network, "numpy", keep=lambda name, _: name == "kept")
    reasons = {str(one.message).split()[0]: str(one.message) for one in said}
    assert list(reasons) == ["special", "indices"]
    assert reasons["special"].endswith("<locals>.Special is derived from torch.nn.Conv2d")
    assert "stays PyTorch's: return_indices" in reasons["indices"]
    kinds = {name: type(layer) for name, layer in network.items()}
    assert kinds["plain"] is layers.Conv2d
    assert kinds["kept"] is nn.Conv2d
    with pytest.raises(Unsupported, match="return_indices"):
        layers.MaxPool2d(2, return_indices=True, backend="numpy")


def test_layers_to_keep_stay_as_they_are():
    class Special(nn.Conv2d):
        pass

    network = nn.ModuleDict({"a": nn.Conv2d(1, 1, 3), "b": nn.Conv2d(1, 1, 3)})
    network["special"] = Special(1, 1, 3)
    layers.convert(network, "numpy", keep=lambda name, _: name == "special")
    layers.convert(network, "naive", keep=lambda name, _: name != "b")
    assert [network[name].backend for name in "ab"] == ["numpy", "naive"]
    assert type(network["special"]) is Special


def test_a_class_derived_from_ours_takes_the_backend_and_stays():
    class Ours(layers.Conv2d):
        pass

    network = nn.ModuleList([Ours(2, 3, 3, backend="numpy"), Ours(2, 3, 3, backend="numpy")])
    parametrizations.weight_norm(network[1])
    kinds = [type(layer) for layer in network]
    layers.convert(network, "naive")
    assert [layer.backend for layer in network] == ["naive"] * 2
    x = torch.zeros(1, 2, 6, 6)
    assert layers.problem_of(network[0], x) == layers.problem_of(nn.Conv2d(2, 3, 3), x)
    with pytest.warns(layers.ConversionWarning, match="stays cnnkernels'.*Ours is derived") as said:
        layers.revert(network)
    assert len(said) == 2
    assert [type(layer) for layer in network] == kinds


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_is_converted_once_it_has_weights(close):
    network = nn.Sequential(nn.LazyConv2d(3, 3))
    with pytest.warns(layers.ConversionWarning, match="0 stays PyTorch's: LazyConv2d has no weig"):
        layers.convert(network, "numpy")
    right = network(x := torch.ones(1, 2, 5, 5))
    close(layers.convert(network, "numpy")(x), right)
    assert type(network[0]) is layers.Conv2d


def test_a_converted_model_may_become_float64(draw, model, close_steps):
    network = layers.convert(model(torch.float32), "numpy").double()
    x = draw(3, 2, 6, 6)
    close_steps(network, model(), x)
    with pytest.raises(TypeError, match=r"w: expected torch\.float32, the dtype of x, got"):
        network(x.float())


def test_problems_of_layers():
    x = torch.zeros(3, 2, 6, 6, dtype=torch.float64)
    assert layers.problem_of(nn.Conv2d(2, 4, 3, padding=1).double(), x) == Conv2D(
        3, 2, 6, 6, 4, 3, padding=1, dtype="float64"
    )
    assert layers.problem_of(nn.MaxPool2d(2), x.expand(3, 2, 6, 6)) == MaxPool2D(
        3, 2, 6, 6, 2, dtype="float64"
    )
    for layer, images, why in (
        (nn.Linear(2, 2), x, "neither"),
        (nn.MaxPool2d(2, return_indices=True), x, "return_indices"),
        (nn.MaxPool2d(2), x.to(torch.bfloat16), "bfloat16"),
    ):
        with pytest.raises(Unsupported, match=why):
            layers.problem_of(layer, images)


@pytest.mark.parametrize("name", layers.__all__)
def test_models_are_saved_by_public_names(name):
    public = getattr(layers, name)
    assert public.__module__ == "cnnkernels.torch"
    assert pickle.loads(pickle.dumps(public)) is public
