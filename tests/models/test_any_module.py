from __future__ import annotations

import pytest
import torch
from torch import nn

import cutaway as cut
from cutaway.engine.stack import SequentialStack
from cutaway.errors import AddressError, OutOfOrderError
from cutaway.mediators.ablate import ablate
from cutaway.models.any_module import AnyModule, dotted


@pytest.mark.parametrize(
    ("path", "found"),
    [("layers[3].mlp", "layers.3.mlp"), ("[0].weight", "0.weight"), ("h[1][2]", "h.1.2"), ("a.b", "a.b"), ("", ""), ("2.0", "2.0")],
)
def test_dotted(path: str, found: str) -> None:
    assert dotted(path) == found


def test_convolutions() -> None:
    """An image classifier: units are channels."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    model = cut.open(module)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        convolved = module[0](image)
    found = model.run(image, read=["[0].output", "[0].output[unit=2]", "[1].output"])
    assert torch.equal(found["[0].output"], convolved) and torch.equal(found["[0].output[unit=2]"], convolved[:, 2])
    assert torch.equal(found["[1].output"], convolved.relu())
    edits = [[(f"[0].output[unit={c}]", ablate())] for c in range(4)]
    swept = model.sweep(image, edits=edits, metric=lambda out: out)
    for c, one in enumerate(edits):
        torch.testing.assert_close(swept[c], model.run(image, edits=one).output)
    with pytest.raises(AddressError, match="axes batch, channel, y, x"):
        model.run(image, read=["[0].output[pos=2]"])
    values, slopes = model.gradients(image, of=lambda out: out[:, 0], at=["[0].output"])
    assert torch.equal(values["[0].output"], convolved) and (slopes["[0].output"][convolved <= 0] == 0).all()


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, *, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"joined": self.inner(image) + text}


def test_inputs_by_keyword() -> None:
    model = cut.open(Keywords())
    image, text = torch.ones(2, 4), torch.zeros(2, 4)
    with model.trace(image=image, text=text) as run:
        assert torch.equal(model.input, image)
        model.inner.output = model.inner.output * 0
    assert torch.equal(run.output["joined"], text)
    assert model.run(image=image, text=text, read=["inner.output[unit=1]"])["inner.output[unit=1]"].shape == (2,)
    with pytest.raises(AddressError, match="without prompts"):
        model.run(image=image, text=text, read=["inner.output[pos=1]"])


def test_recurrent_network() -> None:
    """A module that returns a tuple, of which the first is read by position."""
    model = cut.open(nn.LSTM(4, 5, batch_first=True))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    with model.trace(x):
        output, (state, _) = model.output
    assert torch.equal(output[:, -1], state[0])
    assert torch.equal(model.sweep(x, edits=[[]], metric=lambda out: out)[0], output)


def test_roles_need_prompts() -> None:
    model = cut.open(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(AddressError, match="a whole number for pos"):
        model.run(torch.zeros(1, 4), read=["[0].output[pos=last]"])


def test_which_modules_are_stacks() -> None:
    assert isinstance(AnyModule(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "m").stack, SequentialStack)
    assert AnyModule(nn.Linear(2, 2), "m").stack is None and AnyModule(nn.Sequential(), "m").stack is None


def test_part_that_is_never_called_by_itself() -> None:
    """A list of modules is no step of a forward."""
    module = nn.Module()
    module.parts = nn.ModuleList([nn.Linear(2, 2)])
    module.forward = lambda x: module.parts[0](x)  # type: ignore[method-assign]
    model = cut.open(module)
    with pytest.raises(OutOfOrderError):
        model.run(torch.zeros(1, 2), read=["parts.output"])
    assert model.run(torch.zeros(1, 2), read=["parts[0].output"])["parts[0].output"].shape == (1, 2)
