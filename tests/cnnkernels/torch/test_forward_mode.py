"""In every kind of forward mode, converted layers match PyTorch's tangents or raise an error."""

import contextlib

import pytest

from cnnkernels import plan, registry
from cnnkernels.plan import Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn
forward_ad = torch.autograd.forward_ad
func = torch.func
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
make_fx = pytest.importorskip("torch.fx.experimental.proxy_tensor").make_fx

pytestmark = [  # of PyTorch's own code
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
]


class Passing(torch.utils._python_dispatch.TorchDispatchMode):
    """A dispatch mode that passes operators through."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return operator(*args, **kwargs or {})


MODES = {
    "eager": contextlib.nullcontext,
    "a mode": Passing,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
}


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(11)
X, W, B = (draw(2, 4, 6, 5), draw(6, 2, 3, 2), draw(6))
DX, DW, DB = (torch.cos(9 * tensor) for tensor in (X, W, B))
HOW = {"stride": (2, 1), "padding": (1, 0), "groups": 2}


def convolution(module, **which):
    """Return PyTorch's or this package's conv2d as a function of three tensors."""
    return lambda x, w, b: module.conv2d(x, w, b, **HOW, **which)


def pooling(module, **which):
    return lambda x: module.max_pool2d(x, 3, stride=2, padding=1, **which)


def both(kind, backend="numpy"):
    """Return this package's function and PyTorch's."""
    return kind(layers, backend=backend), kind(nn.functional)


def dual(function, *given):
    """Return the tangent of a function's result, given tensors or pairs with tangents."""
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*one) if isinstance(one, tuple) else one for one in given]
        return forward_ad.unpack_dual(function(*duals)).tangent


def pushed(function, *pairs):
    primals, tangents = zip(*pairs, strict=True)
    return func.jvp(function, primals, tangents)[1]


def slope(function):
    """Return the gradient of a function's squared sum by reverse mode."""

    def found(x):
        return torch.autograd.grad(function(x).square().sum(), x)[0]

    return found


CONVOLUTION_ROUTES = {
    "jvp of x": lambda conv: pushed(lambda x: conv(x, W, B), (X, DX)),
    "jvp of w": lambda conv: pushed(lambda w: conv(X, w, B), (W, DW)),
    "jvp of b": lambda conv: pushed(lambda b: conv(X, W, b), (B, DB)),
    "jvp of all": lambda conv: pushed(conv, (X, DX), (W, DW), (B, DB)),
    "jvp of an image": lambda conv: pushed(lambda x: conv(x, W, None), (X[0], DX[0])),
    "jvp of jvp": lambda conv: pushed(lambda w: pushed(lambda x: conv(x, w, B), (X, DX)), (W, DW)),
    "jvp of grad": lambda conv: pushed(func.grad(lambda x: conv(x, W, B).square().sum()), (X, DX)),
    "grad of jvp": lambda conv: func.grad(
        lambda w: pushed(lambda x: conv(x, w, B).square(), (X, DX)).sum()
    )(W),
    "jacfwd": lambda conv: func.jacfwd(lambda b: conv(X, W, b))(B),
    "linearize": lambda conv: func.linearize(lambda x: conv(x, W, B), X)[1](DX),
    "dual x": lambda conv: dual(conv, (X, DX), W, B),
    "dual w": lambda conv: dual(conv, X, (W, DW), B),
    "dual b": lambda conv: dual(conv, X, W, (B, DB)),
    "dual image": lambda conv: dual(conv, (X[0], DX[0]), W, B),
    "dual x that needs a gradient": lambda conv: dual(
        conv, (X.clone().requires_grad_(), DX), nn.Parameter(W), nn.Parameter(B)
    ),
    "gradient of duals": lambda conv: dual(
        slope(lambda x: conv(x, W, B)), (X.clone().requires_grad_(), DX)
    ),
}

POOLING_ROUTES = {
    "jvp": lambda pool: pushed(pool, (X, DX)),
    "jvp of an image": lambda pool: pushed(pool, (X[0], DX[0])),
    "jvp of grad": lambda pool: pushed(func.grad(lambda x: pool(x).square().sum()), (X, DX)),
    "jacfwd": lambda pool: func.jacfwd(pool)(X[:1, :1]),
    "dual": lambda pool: dual(pool, (X, DX)),
    "dual that needs a gradient": lambda pool: dual(pool, (X.clone().requires_grad_(), DX)),
    "gradient of duals": lambda pool: dual(slope(pool), (X.clone().requires_grad_(), DX)),
}


def close(ours, theirs):
    assert theirs.count_nonzero() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", CONVOLUTION_ROUTES)
def test_tangents_of_a_convolution_are_pytorchs(route, mode):
    ours, theirs = both(convolution)
    follow = CONVOLUTION_ROUTES[route]
    with MODES[mode]():
        found = follow(ours)
    close(found, follow(theirs))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", POOLING_ROUTES)
def test_tangents_of_a_pooling_are_pytorchs(route, mode):
    ours, theirs = both(pooling)
    follow = POOLING_ROUTES[route]
    with MODES[mode]():
        found = follow(ours)
    close(found, follow(theirs))


def plan_of(fallback):
    return Plan({}, fallback, torch.get_num_threads())


CHOICES = {
    "naive": "naive",
    "numba-simd": "numba-simd",
    "torch-cpu": "torch-cpu",
    "auto": "auto",
    "a plan": plan_of("numpy"),
    "a plan that chose PyTorch's own": plan_of("torch-cpu"),
}


@pytest.mark.filterwarnings("ignore::cnnkernels.plan.PlanWarning")
@pytest.mark.parametrize("choice", CHOICES)
def test_tangents_are_the_same_whoever_was_chosen(choice, monkeypatch):
    monkeypatch.delenv(plan.VARIABLE, raising=False)
    before = plan.use(plan_of("numpy"))
    try:
        conv, theirs = both(convolution, CHOICES[choice])
        with Passing():
            found = pushed(conv, (X, DX), (W, DW), (B, DB))
        close(found, pushed(theirs, (X, DX), (W, DW), (B, DB)))
    finally:
        plan.use(before)


def test_gradcheck_accepts_forward_mode():
    x, w = X[:1].clone().requires_grad_(), W[:2].clone().requires_grad_()
    for function, given in (
        (lambda x, w: layers.conv2d(x, w, groups=2, backend="numpy"), (x, w)),
        (lambda x: layers.max_pool2d(x, 2, backend="numpy"), (x,)),
    ):
        assert torch.autograd.gradcheck(function, given, check_forward_ad=True)


def network():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.MaxPool2d(2)
    ).double()


def test_kernels_compute_again_after_forward_mode(monkeypatch):
    converted = layers.convert(network(), "numpy")
    close(pushed(converted, (X, DX)), pushed(network(), (X, DX)))
    called = []
    kernel = registry.load("numpy").convolution
    forward = kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *given: called.append(given) or forward(*given))
    close(converted(X), network()(X))
    assert len(called) == 1


LAYERS = {"Conv2d": lambda: nn.Conv2d(4, 3, 3).double(), "MaxPool2d": lambda: nn.MaxPool2d(2)}

REFUSED = r"no forward-mode derivative.*cnnkernels\.torch\.revert\(model\)"


@pytest.mark.parametrize("route", ["jvp", "duals"])
@pytest.mark.parametrize("layer", LAYERS)
def test_operators_of_a_graph_refuse_tangents(layer, route):
    graph = make_fx(layers.convert(LAYERS[layer](), "numpy"))(X)
    assert "cnnkernels" in graph.code
    graph(X)
    with pytest.raises(NotImplementedError, match=REFUSED), torch.no_grad():
        pushed(graph, (X, DX)) if route == "jvp" else dual(graph, (X, DX))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_gradient_from_before_refuses_tangents(layer, create_graph):
    x = X.clone().requires_grad_()
    y = layers.convert(LAYERS[layer](), "numpy")(x)
    with pytest.raises(NotImplementedError, match=REFUSED):
        dual(
            lambda dy: torch.autograd.grad(y, x, dy, create_graph=create_graph)[0],
            (torch.ones_like(y), torch.ones_like(y)),
        )


@pytest.fixture
def a_compiler_without_a_past():
    """Reset torch.compile, so that shapes of other tests cause no dynamic shapes here."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("a_compiler_without_a_past")
def test_torch_compile_keeps_tangents_or_refuses():
    converted = layers.convert(network(), "numpy")

    def compiled(function):
        return torch.compile(function, backend="aot_eager", fullgraph=True)

    close(compiled(lambda x, v: pushed(converted, (x, v)))(X, DX), pushed(network(), (X, DX)))
    before = compiled(converted)
    with torch.no_grad():
        close(before(X), network()(X))
        with pytest.raises(NotImplementedError, match=REFUSED):
            dual(before, (X, DX))
    graph = torch.export.export(converted, (X,), strict=False).module()
    with pytest.raises(Exception, match=REFUSED):  # torch.compile gives it a class of its own
        compiled(lambda x, v: pushed(graph, (x, v)))(X, DX)
