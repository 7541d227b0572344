"""Weights: files that do not fit are refused by name, weight norm is folded as torch folds it, seeds are enough."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights, StateDictWeights, Weights, load

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t3_cfg.safetensors"
    save_file(TENSORS, path)
    return path


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_fits_is_taken_and_what_does_not_is_named(path: Path, kind: str) -> None:
    where = str(path) if kind == "file" else "the model in memory"
    weights: Weights = SafetensorsWeights(path) if kind == "file" else StateDictWeights(TENSORS, where)
    for name, tensor in TENSORS.items():
        assert torch.equal(weights.take(name, tuple(tensor.shape)), tensor)
    with pytest.raises(ModelUnavailable) as missing:
        weights.take("b.weight", (2, 3))
    with pytest.raises(ModelUnavailable) as wrong:
        weights.take("a.weight", (3, 2))
    assert where in str(missing.value)
    assert "'b.weight'" in str(missing.value)
    assert all(part in str(wrong.value) for part in (where, "'a.weight'", "(2, 3)", "(3, 2)"))


def test_a_missing_file_says_where_and_the_way_out(tmp_path: Path) -> None:
    for path in (tmp_path / "ve.safetensors", tmp_path):
        with pytest.raises(ModelUnavailable, match=r"is missing.*demo") as caught:
            SafetensorsWeights(path)
        assert str(path) in str(caught.value)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40)
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "s3gen.safetensors"
    save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelUnavailable, match="cut short") as caught:
        SafetensorsWeights(path)
    assert str(path) in str(caught.value)


def test_garbage_is_refused(path: Path) -> None:
    for content in (b"hello", bytes(4096), b"\xff" * 4096):
        path.write_bytes(content)
        with pytest.raises(ModelUnavailable, match="cannot be read"):
            SafetensorsWeights(path)


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize(
    "layer", [nn.Conv1d(3, 5, 7), nn.ConvTranspose1d(4, 2, 3), nn.Linear(6, 4)], ids=lambda layer: type(layer).__name__
)
def test_weight_norm_is_folded_as_torch_computes_it(layer: nn.Module, old_names: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(layer)
    for parameter in normed.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    state = {f"x.{name}": tensor for name, tensor in normed.state_dict().items()}
    if old_names:
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            state[f"x.{old}"] = state.pop(f"x.parametrizations.weight.{new}")
    expected = normed.weight.detach()
    nn.utils.parametrize.remove_parametrizations(layer, "weight")  # the next case folds it anew
    weights = StateDictWeights(state, "memory")
    assert torch.equal(weights.take("x.weight", tuple(expected.shape)), expected)
    del state["x.weight_g" if old_names else "x.parametrizations.weight.original0"]
    with pytest.raises(ModelUnavailable, match=r"x\.weight"):
        weights.take("x.weight", tuple(expected.shape))


@given(seed=st.integers(0, 1000), order=st.permutations(["a.weight", "b.weight", "text_emb.weight"]))
@settings(max_examples=30)
def test_random_weights_depend_on_seed_and_name_alone(seed: int, order: list[str]) -> None:
    state = torch.random.get_rng_state()
    one, two = RandomWeights(seed), RandomWeights(seed)
    expected = {name: one.take(name, (8, 16)) for name in sorted(order)}
    assert all(torch.equal(two.take(name, (8, 16)), expected[name]) for name in order)
    assert not torch.equal(expected["a.weight"], expected["b.weight"])
    assert not torch.equal(expected["a.weight"], RandomWeights(seed + 1).take("a.weight", (8, 16)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_random_weights_keep_signals_at_their_size() -> None:
    weights = RandomWeights(0)
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    y = x @ weights.take("layer.weight", (512, 512)).T
    assert abs(y.std() - 1) < 0.05
    assert weights.take("conv.weight", (4, 32, 7)).abs().max() <= math.sqrt(3 / (32 * 7))
    assert (weights.take("norm.weight", (5,)) == 1).all()
    assert (weights.take("norm.bias", (5,)) == 0).all()


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def test_load_fills_a_module_built_on_no_device() -> None:
    with torch.device("meta"):
        module = _Small()
    tensors = {f"part.{name}": tensor for name, tensor in {**TENSORS, "count": torch.tensor(3)}.items()}
    load(module, StateDictWeights(tensors, "memory"), "part.", torch.bfloat16)
    assert torch.equal(module.a.weight, TENSORS["a.weight"].bfloat16())
    assert module.count.dtype == torch.int64
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(ModelUnavailable, match=r"'other\."):
        load(module, StateDictWeights(tensors, "memory"), "other.")


def test_a_model_is_loaded_without_torchs_compiler() -> None:
    """Its import takes seconds, at every start of every replica."""
    program = (
        "import sys\n"
        "from chatterbox_engine import OptimizedChatterboxTTS\n"
        "OptimizedChatterboxTTS.from_pretrained('cpu', model='dummy:tiny').generate('Hello.')\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=120, check=False).returncode == 0
