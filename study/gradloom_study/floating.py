"""The same networks in float32, trained by PyTorch under the machine's rule, to compare with."""

import torch
from torch import nn
from torch.nn import functional

from gradloom_host.graph import AveragePool, Conv, Linear, MaxPool

from .networks import Norm, Shortcut, Spec, draw_weights
from .norm import EPSILON, KEPT

__all__ = ["FloatNetwork"]


class FloatNetwork(nn.Module):
    """A network of float32 with the first weights of the integer one.

    Parameters
    ----------
    spec : Spec
    seed : int
    """

    def __init__(self, spec: Spec, seed: int):
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        shapes = spec.shapes()
        self.members = nn.ModuleList()
        for index, layer in enumerate(spec.layers):
            given = shapes[spec.sources(index)[0]] if index else spec.input
            member: nn.Module = nn.Identity()
            if isinstance(layer, Conv):
                member = nn.Conv2d(given.channels, layer.channels, layer.taps, layer.stride,
                                   layer.padding, bias=layer.bias)
            elif isinstance(layer, Linear):
                member = nn.Linear(given.channels * given.pixels, layer.features, layer.bias)
            elif isinstance(layer, Norm):
                member = nn.BatchNorm2d(given.channels, eps=EPSILON, momentum=1 - KEPT)
            if isinstance(layer, Conv | Linear):
                assert isinstance(member, nn.Conv2d | nn.Linear)
                drawn = draw_weights(layer, given, spec.gains.get(index, 1.0), generator)
                with torch.no_grad():
                    member.weight.copy_(drawn)
                    if member.bias is not None:
                        member.bias.zero_()
            self.members.append(member)
        self._velocities = {name: torch.zeros_like(value)
                            for name, value in self.named_parameters()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of images (B, height, width, channels), 0 to 255."""
        given = images.float().div(256).permute(0, 3, 1, 2)
        outputs: list[torch.Tensor] = []
        for index, layer in enumerate(self.spec.layers):
            read = [outputs[of] if of >= 0 else given for of in self.spec.sources(index)]
            y = self._apply_layer(index, layer, read)
            outputs.append(y.relu() if getattr(layer, "relu", False) else y)
        return outputs[-1]

    def _apply_layer(self, index: int, layer, read: list[torch.Tensor]) -> torch.Tensor:
        x = read[0]
        if isinstance(layer, Linear):
            # Inputs are in the machine's order: pixel, channel.
            return self.members[index](x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x)
        if isinstance(layer, MaxPool):
            return functional.max_pool2d(x, layer.size)
        if isinstance(layer, AveragePool):
            return functional.avg_pool2d(x, layer.size)
        if isinstance(layer, Shortcut):
            some = x[:, :, ::layer.stride, ::layer.stride]
            return functional.pad(some, (0, 0, 0, 0, 0, layer.channels - some.shape[1]))
        return self.members[index](x) if len(read) == 1 else x + read[1]

    def learn(self, losses: torch.Tensor, *, batch: int, rate: int, momentum: int | None) -> None:
        """Take a step along the gradient of the sum of `losses` over the batch.

        The velocity holds steps, as the machine's does; biases of layers have none, but take its
        whole sum at once.
        """
        (losses.sum() / batch).backward()
        kept = 1 - 2.0 ** -momentum if momentum else 0.0
        with torch.no_grad():
            for name, value in self.named_parameters():
                assert value.grad is not None
                index = int(name.split(".")[1])
                if name.endswith("bias") and not isinstance(self.spec.layers[index], Norm):
                    value.sub_(value.grad, alpha=2.0 ** ((momentum or 0) - rate))
                else:
                    velocity = self._velocities[name]
                    velocity.mul_(kept).add_(value.grad, alpha=2.0 ** -rate)
                    value.sub_(velocity)
                value.grad = None

    def velocities(self) -> dict[str, torch.Tensor]:
        """Return the state of the rule, to be saved and copied back."""
        return self._velocities
