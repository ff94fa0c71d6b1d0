"""Networks that fit the buffers: only images and labels come from memory, a step ahead."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gradloom_golden.config import Config
from gradloom_golden.program import Descriptor, Opcode, Region

from .graph import Graph
from .pieces import Step, load
from .placement import compile_network

__all__ = ["Resident"]


class Resident:
    """A network laid out in the buffers, and the lists that train it; see `Streamed`.

    Raises
    ------
    CompileError
        If a buffer is too small, which names the field to raise.
    """

    lanes = (1,)                                           # any policy will do
    resident_weights = True
    memory_bytes = kept_bytes = 0

    def __init__(self, config: Config, graph: Graph, batch: int):
        self.network = compile_network(config, graph, batch)
        self._images = self._labels = 0

    @property
    def image_pitch(self) -> int:
        """Bytes from one image in memory to the next."""
        return self.network.image.x_image

    def reserve(self, room: Callable[[int], int]) -> None:
        """Take no memory: nothing leaves the buffers."""

    def place_data(self, *, images: int, labels: int, weights: int, state: int) -> None:
        """Say where images and labels are in memory; weights and state have been loaded."""
        self._images, self._labels = images, labels

    def descriptors(self, steps: Sequence[Step]) -> list[Descriptor]:
        """Return the descriptors of some steps; the next images are loaded while one computes."""
        found = [self._load_images(steps[0], 0), self._load_labels(steps[0])]
        for number, step in enumerate(steps):
            half = number % 2
            forward = [d for index in range(len(self.network.graph.layers))
                       for d in self.network.forward(index, image_half=half)]
            after = self._backward(step, half)
            found.append(replace(forward[0], wait_memory=1))
            following = steps[number + 1] if number + 1 < len(steps) else None
            if following is not None:
                found.append(self._load_images(following, 1 - half))
            found += forward[1:]
            found += self.network.loss(step.policy, evaluate=step.evaluate)
            if following is not None:
                # The labels are free once the loss is known.
                found += [*after[:1], replace(self._load_labels(following),
                                              wait_compute=int(not after))]
            found += after[1:] if following is not None else after
        return found

    def _backward(self, step: Step, half: int) -> list[Descriptor]:
        if step.evaluate:
            return []
        found = [d for index in reversed(range(len(self.network.graph.layers)))
                 for d in self.network.backward(
                     index, step.policy, image_half=half, update=step.update)]
        return [*found, Descriptor(opcode=Opcode.RESCALE)]

    def _load_images(self, step: Step, half: int) -> Descriptor:
        network = self.network
        return load(Region.IMAGE, half * network.image_words, network.image_words,
                    self._images + step.batch * network.batch * self.image_pitch)

    def _load_labels(self, step: Step) -> Descriptor:
        batch = self.network.batch
        return load(Region.LABEL, 0, batch, self._labels + step.batch * batch * 4)
