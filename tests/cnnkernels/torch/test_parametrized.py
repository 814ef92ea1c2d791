"""Parametrizations stay when layers are converted and reverted, in any order."""

import copy

import pytest

from cnnkernels.contract import Conv2D

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn
parametrizations, parametrize = nn.utils.parametrizations, nn.utils.parametrize
prune = pytest.importorskip("torch.nn.utils.prune")

REPARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "a bias": lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
    "hooks of weight_norm": nn.utils.weight_norm,
    "hooks of prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


def reparametrized(network, how):
    torch.manual_seed(4)
    for layer in network[0], network[4]:
        REPARAMETRIZATIONS[how](layer)
    return network


@pytest.fixture
def trains_as(close_steps):
    """Return a function that asserts that models take the same three training steps."""

    def trains_as(ours, theirs, x):
        optimizers = [torch.optim.SGD(network.parameters(), 0.01) for network in (ours, theirs)]
        for _ in range(3):
            close_steps(ours, theirs, x)
            for optimizer in optimizers:
                optimizer.step()

    return trains_as


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("how", REPARAMETRIZATIONS)
def test_reparametrized_layers_convert_and_revert(how, order, draw, model, trains_as):
    theirs = reparametrized(model(), how)
    if order == "before":
        ours = layers.convert(reparametrized(model(), how), "numpy")
    else:
        ours = reparametrized(layers.convert(model(), "numpy"), how)
    x = draw(3, 2, 6, 6, grad=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for backend in ("numpy", "naive"):
        layers.convert(ours, backend)
        assert isinstance(ours[0], layers.Conv2d)
        assert ours[0].backend == backend
        trains_as(ours, theirs, x)
    layers.revert(ours)
    assert not isinstance(ours[0], layers.Conv2d)
    assert repr(ours) == repr(theirs)
    trains_as(ours, theirs, x)


@pytest.mark.parametrize(("convert_last", "kind"), [(True, layers.Conv2d), (False, nn.Conv2d)])
def test_removing_parametrizations_restores_the_class_that_computes(convert_last, kind, close):
    layer = layers.convert(nn.Conv2d(2, 3, 3), "numpy")
    parametrizations.weight_norm(layer)
    parametrizations.spectral_norm(layer)
    layers.revert(layer)
    if convert_last:
        layers.convert(layer, "numpy")
    right = layer.eval()(x := torch.ones(1, 2, 4, 4))
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is kind
    close(layer(x), right)


def test_copies_of_parametrized_layers_are_converted_each_alone(close):
    theirs = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    ours = layers.convert(copy.deepcopy(theirs), "numpy")
    other = layers.revert(copy.deepcopy(ours))
    assert [isinstance(one, layers.Conv2d) for one in (theirs, ours, other)] == [False, True, False]
    assert copy.deepcopy(ours).backend == "numpy"
    parametrize.remove_parametrizations(ours, "weight")
    x = torch.ones(1, 2, 4, 4)
    for one in (ours, other):
        close(one(x), theirs(x))


def test_problems_of_parametrized_layers_are_found_without_changing_them():
    layer = parametrizations.spectral_norm(nn.Conv2d(2, 4, 3, padding=1).double())
    problem = Conv2D(3, 2, 6, 6, 4, 3, padding=1, dtype="float64")
    before = copy.deepcopy(layer.state_dict())
    for one in (layer, layers.convert(layer, "numpy")):
        assert layers.problem_of(one, torch.zeros(3, 2, 6, 6, dtype=torch.float64)) == problem
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
