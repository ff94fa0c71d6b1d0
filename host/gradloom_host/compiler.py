"""From layers to descriptors: what the machine does forward and backward, given where tensors lie.

`gradloom_host.placement` lays a network out; `gradloom_host.resident` and `gradloom_host.streaming`
make lists of whole steps.
"""

from dataclasses import dataclass, replace

from gradloom_golden.config import Config
from gradloom_golden.patch import ImageLayout
from gradloom_golden.program import Descriptor, Drain, Function, Opcode, Schedule

from .graph import Add, Conv, Graph, Linear, MaxPool
from .tensors import CompileError, Policy, Tensor, Weights, Window

__all__ = ["RATE_SHIFT", "Network", "reciprocal"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """A network laid out for a machine; its methods give the descriptors.

    Attributes
    ----------
    activations : list of Tensor
        What each layer gives.
    gradients : dict of int to Tensor
        By layer whose output they belong to.
    weights : dict of int to Weights
    image : ImageLayout or None
        Of the input, if the first layer reads patches.
    window : Window
        The images of the batch that the buffers hold.
    """

    config: Config
    graph: Graph
    batch: int
    activations: list[Tensor]
    gradients: dict[int, Tensor]
    weights: dict[int, Weights]
    image: ImageLayout
    scales: dict[str, int]
    spare_activations: int
    image_words: int
    raw_scales: dict[int, int]
    window: Window

    @property
    def weight_rows(self) -> int:
        """Rows of the weight buffer that all layers take."""
        return sum(w.count for w in self.weights.values()) * self.config.rows

    # Shapes of the passes.

    def _chunks(self, pixels: int, images: int) -> list[tuple[int, int]]:
        """Return first image and images of each chunk that the sums buffer can hold."""
        room = self.config.steps_depth // pixels
        if room == 0:
            raise CompileError(
                f"an image of {pixels} pixels exceeds steps_depth {self.config.steps_depth}: "
                "make it larger")
        return [(first, min(room, images - first)) for first in range(0, images, room)]

    def _walk(self, index: int, *, moving: bool) -> dict[str, int]:
        """Return the geometry fields of layer `index` where X moves with the taps."""
        layer = self.graph.layers[index]
        given = self.graph.input if index == 0 else self.activations[index - 1].shape
        shape = self.activations[index].shape
        weights = self.weights[index]
        blocks, taps_y, taps_x, n_tiles = weights.tiles
        common = {
            "conv": 1, "k_tiles": blocks, "n_tiles": n_tiles, "taps_y": taps_y, "taps_x": taps_x,
            "w_block": weights.block_tiles, "w_row": taps_x * n_tiles, "w_pixel": n_tiles,
            "w_base": weights.base,
        }
        if index == 0:
            image = self.image
            return common | {
                "patch": 1, "x_unsigned": 1, "x_base": 0, "x_stride": self.config.rows,
                "x_scale": self.scales["input"], "t_x": image.out_width, "t_y": image.out_height,
                "x_pixel": image.x_pixel, "x_row": image.x_row, "x_image": image.x_image,
                "patch_row": image.patch_row, "patch_step": image.patch_step,
                "patch_lanes": image.patch_lanes, "y_limit": 4095, "x_limit": 4095,
            }
        x = self.activations[index - 1]
        common |= {
            "x_base": x.base, "x_stride": x.stride, "x_scale": x.scale,
            "x_unsigned": int(x.unsigned), "x_image": given.pixels,
        }
        if isinstance(layer, Linear):
            # A step is a sample, and each pixel has features of its own.
            return common | {
                "t_x": 1, "t_y": 1, "tap_row": given.width, "tap_pixel": 1,
                "y_limit": 4095, "x_limit": 4095,
            }
        assert isinstance(layer, Conv)
        pad, stride = layer.padding, layer.stride
        common |= {"t_x": shape.width, "t_y": shape.height}
        if moving:
            common |= {
                "x_pixel": stride, "x_row": stride * given.width,
                "x_offset": -pad * given.width - pad, "tap_row": given.width, "tap_pixel": 1,
                "y_first": -pad, "x_first": -pad, "y_limit": given.height, "x_limit": given.width,
                "y_step": stride, "x_step": stride, "tap_dy": 1, "tap_dx": 1,
            }
        return common

    def _steps_an_image(self, index: int) -> int:
        layer = self.graph.layers[index]
        return 1 if isinstance(layer, Linear) else self.activations[index].shape.pixels

    # Forward.

    def forward(self, index: int, *, image_half: int = 0) -> list[Descriptor]:
        """Return the descriptors of the forward pass of one layer."""
        layer = self.graph.layers[index]
        if isinstance(layer, (Conv, Linear)):
            return self._forward_weights(index, layer, image_half)
        return self._forward_vector(index, layer)

    def _forward_weights(self, index, layer, image_half) -> list[Descriptor]:
        y, weights = self.activations[index], self.weights[index]
        walk = self._walk(index, moving=True)
        pixels = self._steps_an_image(index)
        found = []
        for first, images in self._chunks(pixels, self.window.images):
            moved = dict(walk)
            moved["x_base"] += first * walk["x_image"]
            if index == 0:
                moved["x_base"] += image_half * self.image_words * self.config.lane_count
            bias = {}
            if layer.bias:
                bias = {"bias": 1, "bias_base": weights.bias_base,
                        "bias_scale": weights.bias_scale}
            found.append(Descriptor(
                opcode=Opcode.FORWARD, steps=images * pixels, scaled=1, measure=1,
                relu=int(layer.relu), y_unsigned=int(layer.relu),
                w_scale=weights.scale, out_scale=y.scale, out_base=y.base + first * pixels,
                out_stride=y.stride, **bias, **self._within(moved, first)))
        return found

    def _within(self, fields: dict[str, int], first: int) -> dict[str, int]:
        """Let a chunk's base stay inside its tensor, whose extent is checked."""
        if fields.get("patch") or first == 0:
            return fields
        shift = first * fields["x_image"]
        return fields | {"x_base": fields["x_base"] - shift,
                         "x_offset": fields.get("x_offset", 0) + shift}

    def _window(self, index: int, layer) -> dict[str, int]:
        x, y = self.activations[index - 1], self.activations[index]
        size = layer.size
        return {
            "x_base": x.base, "x_stride": x.stride, "k_tiles": x.blocks,
            "x_unsigned": int(x.unsigned), "t_x": y.shape.width, "t_y": y.shape.height,
            "taps_y": size, "taps_x": size, "x_pixel": size, "x_row": size * x.shape.width,
            "x_image": x.shape.pixels, "tap_row": x.shape.width, "tap_pixel": 1,
            "y_step": size, "x_step": size, "tap_dy": 1, "tap_dx": 1,
            "y_limit": x.shape.height, "x_limit": x.shape.width, "x_scale": x.scale,
        }

    def _forward_vector(self, index, layer) -> list[Descriptor]:
        y = self.activations[index]
        steps = self.window.images * y.shape.pixels
        out = {"out_base": y.base, "out_stride": y.stride, "out_scale": y.scale,
               "relu": int(y.relu), "y_unsigned": int(y.unsigned), "steps": steps}
        if isinstance(layer, Add):
            a, b = (self.activations[source] for source in self.graph.sources(index))
            return [Descriptor(
                opcode=Opcode.VECTOR, function=Function.ADD, scaled=1, measure=1,
                k_tiles=y.blocks, x_base=a.base, x_stride=a.stride, x_scale=a.scale,
                d_base=b.base, d_stride=b.stride, d_scale=b.scale,
                x_unsigned=int(a.unsigned), d_unsigned=int(b.unsigned), **out)]
        window = self._window(index, layer)
        if isinstance(layer, MaxPool):
            return [Descriptor(opcode=Opcode.VECTOR, function=Function.MAXIMUM, **window, **out)]
        shift, factor = reciprocal(layer.size)
        return [Descriptor(opcode=Opcode.VECTOR, function=Function.AVERAGE, scaled=1, measure=1,
                           out_shift=shift, factor=factor, **window, **out)]

    # Loss.

    def loss(self, policy: Policy, *, evaluate: bool = False) -> list[Descriptor]:
        """Return the descriptor that compares the logits with the labels."""
        logits = self.activations[-1]
        d = self.gradients[len(self.graph.layers) - 1]
        return [Descriptor(
            opcode=Opcode.LOSS, steps=self.window.images, classes=logits.shape.channels, scaled=1,
            x_base=logits.base, x_stride=logits.stride, x_scale=logits.scale,
            out_base=d.base, out_stride=d.stride, function=policy.skip_rule,
            threshold=policy.threshold, first=1, stochastic=int(policy.stochastic),
            schedule=int(evaluate))]

    # Backward.

    def backward(self, index: int, policy: Policy, *, image_half: int = 0,
                 update: bool = True) -> list[Descriptor]:
        """Return the descriptors of the backward pass of one layer.

        Without `update` weights and biases stay as they are, and weight gradients are left out.
        """
        found = self.own_backward(index, policy, image_half=image_half, update=update)
        return found + self.skip_gradients(index - 1, policy)

    def own_backward(self, index: int, policy: Policy, *, image_half: int = 0, update: bool = True,
                     bias: bool = True) -> list[Descriptor]:
        """Return what `backward` does without what residual additions hand back.

        `bias` tells whether that has its update, too.
        """
        layer = self.graph.layers[index]
        if isinstance(layer, Add):
            return []                                      # what it adds has its own gradient
        if not isinstance(layer, Conv | Linear):
            return self._backward_pool(index, layer)
        found = self._weight_passes(index, layer, policy, image_half, update)
        if layer.bias and update and bias:
            found += self._bias(index, policy)
        return found

    def _lanes(self, index: int, policy: Policy) -> int:
        place = sorted(self.weights).index(index) if len(policy.lanes) > 1 else 0
        return {1: 0, 2: 1, 4: 2}[policy.lanes[place]]

    def _rule(self, index: int, policy: Policy) -> dict[str, int]:
        """Return the fields of the update.

        The step of a master weight is dW lr / batch, of which the velocity holds a multiple.
        """
        smooth = 0 if policy.momentum is None else policy.momentum
        rate = policy.rate + (self.batch.bit_length() - 1) - self.config.residue_bits
        return {"rate": rate - RATE_SHIFT * bool(smooth), "momentum": int(bool(smooth)),
                "decay_shift": smooth or 0, "rate_shift": RATE_SHIFT if smooth else 0}

    def _weight_passes(self, index, layer, policy, image_half, update) -> list[Descriptor]:
        d, weights = self.gradients[index], self.weights[index]
        target = self.gradients.get(index - 1)
        common = {
            "opcode": Opcode.BACKWARD, "scaled": 1, "kept": 1,
            "gather": int(not self.window.gathered),
            "w_scale": weights.scale, "d_scale": d.scale, "d_stride": d.stride,
            "state_base": weights.base,
        }
        lanes_log2 = self._lanes(index, policy)
        packing = {"lanes_log2": lanes_log2, "packed_base": self.spare_activations,
                   "x_shift": 8 - (8 >> lanes_log2)}
        moves = isinstance(layer, Conv) and index > 0
        if target is not None:
            common |= {
                "out_scale": self.raw_scales[index - 1], "measure": 1, "out_stride": target.stride,
                "stochastic": int(policy.stochastic), "mask": int(self.activations[index - 1].relu),
            }
        has_x = target is not None
        if not has_x and not update:
            return []
        if not update:
            schedule = Schedule.INPUT_GRADIENT
            packing = {}
        else:
            schedule = policy.schedule if has_x else Schedule.WEIGHT_GRADIENT
        common |= {"schedule": schedule, **packing, **self._rule(index, policy)}
        passes = self._moving_passes(index, layer) if moves else [self._still_pass(index)]
        found: list[Descriptor] = []
        stores = False
        for fields in passes:
            pixels = fields.pop("pixels")
            chunks = self._chunks(pixels, self.window.images)
            stores |= len(chunks) > 1 or self.window.images < self.batch
            for first, images in chunks:
                found.append(self._chunk(
                    index, common | fields, first, images, pixels, image_half))
        if not update:
            return found
        stores |= not policy.fused
        if stores:
            found = self._stored(index, found)
        return self._grouped(index, layer, found)

    def _still_pass(self, index: int) -> dict[str, int]:
        """Return the pass in which X moves with the taps, or does not move."""
        d = self.gradients[index]
        return self._walk(index, moving=True) | {
            "d_base": d.base, "pixels": self._steps_an_image(index)}

    def _moving_passes(self, index: int, layer: Conv) -> list[dict[str, int]]:
        """Return the passes over the phases of a stride, in which D moves with the taps.

        Pixels of X that differ by a multiple of the stride meet the same taps.
        """
        x, d, weights = self.activations[index - 1], self.gradients[index], self.weights[index]
        stride, pad = layer.stride, layer.padding
        (all_y, all_x), n_tiles = layer.taps, weights.tiles[3]
        base = self._walk(index, moving=False)
        found = []
        for phase_y in range(min(stride, x.shape.height)):
            for phase_x in range(min(stride, x.shape.width)):
                tap_y, tap_x = (phase_y + pad) % stride, (phase_x + pad) % stride
                taps_y, taps_x = len(range(tap_y, all_y, stride)), len(range(tap_x, all_x, stride))
                if 0 in (taps_y, taps_x):
                    continue
                y, along = (phase_y + pad - tap_y) // stride, (phase_x + pad - tap_x) // stride
                height = len(range(phase_y, x.shape.height, stride))
                width = len(range(phase_x, x.shape.width, stride))
                found.append(base | {
                    "d_moves": 1, "t_x": width, "t_y": height, "pixels": width * height,
                    "x_pixel": stride, "x_row": stride * x.shape.width,
                    "x_offset": phase_y * x.shape.width + phase_x,
                    "taps_y": taps_y, "taps_x": taps_x,
                    "d_base": d.base, "d_row": d.shape.width, "d_image": d.shape.pixels,
                    "d_offset": y * d.shape.width + along,
                    "tap_row": -d.shape.width, "tap_pixel": -1,
                    "y_first": y, "x_first": along, "y_limit": d.shape.height,
                    "x_limit": d.shape.width, "y_step": 1, "x_step": 1, "tap_dy": -1, "tap_dx": -1,
                    "w_row": stride * all_x * n_tiles, "w_pixel": stride * n_tiles,
                    "first_tile": (tap_y * all_x + tap_x) * n_tiles,
                })
        return found

    def _chunk(self, index, fields, first, images, pixels, image_half) -> Descriptor:
        """Return the descriptor of some images of a pass."""
        fields = dict(fields)
        weights, target = self.weights[index], self.gradients.get(index - 1)
        tile = fields.pop("first_tile", 0) * self.config.rows
        fields["w_base"] = weights.base + tile
        fields["state_base"] = weights.base + tile
        d = self.gradients[index]
        d_image = d.shape.pixels if fields.get("d_moves") else pixels
        if fields.get("d_moves"):
            fields["d_offset"] += first * d_image
        else:
            fields["d_base"] += first * d_image
        if fields.get("patch"):
            fields["x_base"] += image_half * self.image_words * self.config.lane_count
        if target is not None:
            fields["out_base"] = target.base + first * target.shape.pixels
        if self.window.gathered:
            self._after_gathering(fields, first, target)
        self._check_packed(index, fields, images * pixels)
        return Descriptor(steps=images * pixels, images=images, pixels=pixels,
                          first_sample=self.window.first + first, **fields)

    def _after_gathering(self, fields: dict[str, int], first: int, target: Tensor | None) -> None:
        """Let X begin with image `first`, since no keep list leads there; dX lies as X does."""
        moved = first * fields["x_image"]
        if fields.get("patch"):
            fields["x_base"] += moved
        else:
            fields["x_offset"] = fields.get("x_offset", 0) + moved
        if target is not None:
            fields["out_base"] = target.base

    def _check_packed(self, index: int, fields: dict[str, int], steps: int) -> None:
        """Refuse packed words that go beyond the buffer: an image of many tiles has many."""
        lanes_log2, room = fields.get("lanes_log2", 0), self.config.activation_depth
        words = fields["k_tiles"] * -(-steps >> lanes_log2)
        if lanes_log2 and self.spare_activations + words > room:
            raise CompileError(
                f"packed inputs of layer {index} need {words} words behind the activations: raise "
                f"activation_depth {room}, lower the batch or use one lane")

    def _stored(self, index: int, found: list[Descriptor]) -> list[Descriptor]:
        """Store the gradients of the first chunk, add those of the others, then update."""
        weights = self.weights[index]
        if weights.spare < 0:
            raise CompileError(
                f"the state buffer has no room for the gradients of layer {index}: "
                "raise weight_depth or steps_depth")
        moved = weights.spare - weights.base
        stored = [replace(
            d, state_base=d.state_base + moved,
            drain=Drain.ACCUMULATE if d.first_sample else Drain.STORE) for d in found]
        if not self.window.is_last:
            return stored
        last = found[0]
        stored.append(Descriptor(
            opcode=Opcode.UPDATE, scaled=1, kept=1, images=self.batch, pixels=1, steps=1,
            rows=weights.count * self.config.rows, w_base=weights.base, state_base=weights.base,
            packed_base=weights.spare, x_scale=last.x_scale, d_scale=last.d_scale,
            w_scale=last.w_scale, rate=last.rate, momentum=last.momentum,
            decay_shift=last.decay_shift, rate_shift=last.rate_shift))
        return stored

    def _grouped(self, index: int, layer, found: list[Descriptor]) -> list[Descriptor]:
        """Split the passes of a grouped layer by blocks, and tell which weights are there."""
        if not isinstance(layer, Conv) or layer.groups == 1:
            return found
        rows = self.config.rows
        inputs = self.activations[index - 1].shape.channels // layer.groups
        outputs = layer.channels // layer.groups
        split = []
        for d in found:
            if d.opcode != Opcode.BACKWARD:
                split.append(d)
                continue
            for block in range(d.k_tiles):
                group, place = divmod(block * rows, inputs)
                moved = block * d.w_block * rows
                split.append(replace(
                    d, k_tiles=1, k_group=inputs, n_group=outputs, k_first=place,
                    n_first=group * outputs, w_base=d.w_base + moved,
                    state_base=d.state_base + moved, x_base=d.x_base + block * d.x_stride,
                    out_base=d.out_base + block * d.out_stride))
        return split

    def _bias(self, index: int, policy: Policy) -> list[Descriptor]:
        d, weights, window = self.gradients[index], self.weights[index], self.window
        smooth = policy.momentum or 0
        whole = window.images == self.batch
        found = [Descriptor(
            opcode=Opcode.VECTOR, function=Function.BIAS_UPDATE, scaled=1, kept=1,
            images=window.images, pixels=d.shape.pixels, first_sample=window.first,
            steps=window.images * d.shape.pixels, k_tiles=1,
            n_tiles=weights.tiles[3], d_base=d.base, d_stride=d.stride, d_scale=d.scale,
            bias_base=weights.bias_base, bias_scale=weights.bias_scale,
            first=int(window.first == 0), last=int(whole),
            rate=policy.rate + (self.batch.bit_length() - 1) - smooth, stochastic=1)]
        if window.is_last and not whole:
            # Any window but the first may have lost all its samples, and is left out then: the sum
            # is used with a pixel of zeros, which takes the place of the gradient.
            zeros = replace(d, base=window.spare_gradients, stride=1)
            found += [self._fill(zeros, words=1), replace(
                found[0], images=self.batch, pixels=1, first_sample=0, steps=1,
                d_base=zeros.base, d_stride=1, first=0, last=1)]
        return found

    def _backward_pool(self, index, layer) -> list[Descriptor]:
        target = self.gradients.get(index - 1)
        if target is None:
            return []
        x, y, d = self.activations[index - 1], self.activations[index], self.gradients[index]
        fields = self._window(index, layer) | {
            "steps": self.window.images * y.shape.pixels, "images": self.window.images,
            "pixels": y.shape.pixels, "first_sample": self.window.first,
            "kept": 1, "gather": int(not self.window.gathered),
            "d_base": d.base, "d_stride": d.stride, "d_scale": d.scale,
            "out_base": target.base, "out_stride": target.stride,
            "out_scale": self.raw_scales[index - 1], "mask": int(x.relu),
            "opcode": Opcode.VECTOR, "scaled": 1, "measure": int(not isinstance(layer, MaxPool)),
        }
        found = []
        if x.shape.height % layer.size or x.shape.width % layer.size:
            found.append(self._fill(target, words=self.window.images * target.shape.pixels))
        if isinstance(layer, MaxPool):
            found.append(Descriptor(
                function=Function.MAXIMUM_GRADIENT, packed_base=y.base, w_block=y.stride,
                **fields))
        else:
            shift, factor = reciprocal(layer.size)
            found.append(Descriptor(function=Function.AVERAGE_GRADIENT, out_shift=shift,
                                    factor=factor, **fields))
        return found

    def _fill(self, target: Tensor, *, words: int) -> Descriptor:
        return Descriptor(
            opcode=Opcode.VECTOR, function=Function.FILL, gradients=1, k_tiles=target.blocks,
            steps=words, t_x=min(words, 4095), t_y=-(-words // 4095), x_pixel=1, x_row=4095,
            out_base=target.base, x_stride=target.stride, out_stride=target.stride,
            taps_y=1, taps_x=1, y_limit=4095, x_limit=4095)

    def skip_gradients(self, index: int, policy: Policy) -> list[Descriptor]:
        """Return the additions of what residual additions hand back to layer `index`."""
        d = self.gradients.get(index)
        found = []
        scale = self.raw_scales.get(index, 0)
        for later, layer in enumerate(self.graph.layers):
            if not isinstance(layer, Add) or layer.of != index or d is None:
                continue
            y, other = self.activations[index], self.gradients[later]
            found.append(Descriptor(
                opcode=Opcode.VECTOR, function=Function.ADD, gradients=1, scaled=1, measure=1,
                kept=1, gather=int(not self.window.gathered), images=self.window.images,
                pixels=d.shape.pixels, first_sample=self.window.first,
                steps=self.window.images * d.shape.pixels, t_x=d.shape.width, t_y=d.shape.height,
                k_tiles=d.blocks, x_base=d.base,
                x_stride=d.stride, x_scale=scale, d_base=other.base, d_stride=other.stride,
                d_scale=other.scale, out_base=d.base, out_stride=d.stride, out_scale=d.scale,
                mask=int(y.relu), packed_base=y.base, w_block=y.stride,
                stochastic=int(policy.stochastic)))
            scale = d.scale
        return found


RATE_SHIFT = 4
"""Fraction bits that the velocity keeps of a step."""


def reciprocal(size: int) -> tuple[int, int]:
    """Return shift and factor, at most 255, whose quotient is one over `size` squared."""
    area = size * size
    shift = (255 * area).bit_length() - 1
    return shift, round((1 << shift) / area)
