"""What a pass costs, by walking over its tiles, slots, rows and elements one by one.

The contract, without an equation of the model: a tile of R x C cells holds an operand or a result;
a slot moves a word past it from each side; a word of a row of X or D is read if that row exists,
whole if padding is counted, else its elements that exist. Sums that meet an element again are added
to it. Groups of a convolution stand side by side where they fit, and all in one product if dense.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any

__all__ = ["Unit", "moving", "reference", "still", "walk"]


def walk(folds, rows, columns, slots, *, loads, drains, os_drain=True):
    """Return the cycles of tiles of so many slots: every event as early as the rules allow.

    A slot takes a cycle. A shift moves whole columns: it comes `rows` cycles after the last slot or
    swap at the earliest, and the next slot or swap the cycle after the last of `rows` shifts. With
    hidden folds a swap rides with the last slot of a tile, and shifts go on beside the next tile:
    those of its successor's load, those of its predecessor's results, or both at once; ideal ones
    never wait for these. A serial fold begins where the one before has left the array.
    """
    if not slots or not sum(slots):
        return 0
    if folds == "serial":
        now = 0
        for here in slots:
            now += rows if loads else 0
            now += here
            now += rows + columns - 2                      # the last wave crosses the array
            now += rows if drains and os_drain else 0
        return now
    shift = slot = wave = last_slot = -1

    def shifts(earliest):
        nonlocal shift
        for _ in range(rows):
            shift = max(shift + 1, earliest)

    if loads:
        shifts(0)
        wave = shift + (folds in ("hidden", "ideal"))
    for tile, here in enumerate(slots):
        swap, slot = wave, wave
        if tile and folds == "chained":
            shifts(last_slot + rows)
            slot = shift
        for _ in range(here):
            slot += 1
        last_slot = wave = slot
        beside = (loads and tile < len(slots) - 1) or (drains and tile > 0)
        if folds == "hidden" and beside:
            shifts(swap + rows)
            wave = max(slot, shift + 1)
    if drains:
        shifts(wave + rows)
        return shift + 1 + columns
    return wave + 1 + rows + columns


@dataclass(kw_only=True)
class Unit:
    """A product: copies x taps x features, and rows that stream.

    Attributes
    ----------
    copies : list of list of int
        The groups in each.
    taps : list of list of (int, int)
        Taps that share the rows of a tile: one, or those of a patch.
    rows : list of (int, int, int)
        Sample and position.
    there : dict
        Position on the other side of each position and tap, if it exists.
    parts : bool
        Whether each k tile is a pass.
    """

    layer: Any
    a: Any
    copies: list
    taps: list
    rows: list
    there: dict
    patches: bool = False
    parts: bool = False
    dense: bool = False
    found: Counter = field(default_factory=Counter)

    def k_features(self, copy, taps):
        """Return the features of the k side of a copy: tap, group, channel."""
        each = self.layer.inputs // self.layer.groups
        return [(tap, group, channel) for tap in taps for group in copy for channel in range(each)]

    def n_features(self, copy):
        """Return the features of the n side of a copy: group, channel."""
        each = self.layer.outputs // self.layer.groups
        return [(group, channel) for group in copy for channel in range(each)]

    def real(self, feature):
        """Return whether a feature belongs to a group that exists."""
        return feature[-2] < self.layer.groups

    def word(self, edge, exists):
        """Return the elements of a word: all of the edge, or those that exist."""
        return edge if self.a.padding == "counted" else sum(exists)

    def filled(self, features, edge):
        """Return the features that exist, or all and what fills the tile if that counts."""
        if self.a.padding == "free":
            return [one for one in features if self.real(one)]
        return features + [f"fill {number}" for number in range(edge - len(features))]

    def has(self, operand, row, feature):
        """Return whether an element of X or D exists."""
        return self.real(feature) and (operand == "d" or (row[1:], feature[0]) in self.there)

    def meet(self, k, n):
        """Return whether a weight exists."""
        return self.real(k) and self.real(n) and (self.dense or k[1] == n[0])

    def weight_word(self, ks, ns):
        """Return the weights of a tile."""
        if self.a.padding == "counted":
            return self.a.rows * self.a.columns
        return sum(self.meet(k, n) for k in ks for n in ns)

    def x_word(self, row, ks):
        """Return the elements of X read for a row of a tile."""
        exist = [self.real(k) and (row[1:], k[0]) in self.there for k in ks]
        if not self.patches and not any(exist):
            return 0
        return self.word(self.a.rows, exist)

    def chunks(self, limit):
        """Return rows by pass: whole samples, or pieces of one."""
        if limit is None:
            return [self.rows] if self.rows else []
        samples = {}
        for row in self.rows:
            samples.setdefault(row[0], []).append(row)
        found = []
        for rows in samples.values():
            if found and len(rows) <= limit and len(found[-1]) + len(rows) <= limit:
                found[-1] = found[-1] + rows
            else:
                found += [rows[i:i + limit] for i in range(0, len(rows), limit)]
        return found

    def run(self, folds, slots, *, loads, drains, words, extra=0):
        """Count a pass over tiles of so many slots."""
        a = self.a
        stretch = 1
        if a.port is not None:
            for elements, bits in words:
                taken = 0
                while taken * a.port * 8 < elements * bits:
                    taken += 1
                stretch = max(stretch, taken)
        self.found["passes"] += 1
        self.found["slots"] += sum(slots)
        self.found["hops"] += sum(2 for _ in range(sum(slots))) * a.rows * a.columns
        self.found["cycles"] += a.lookup + extra + walk(
            folds, a.rows, a.columns, [stretch * one for one in slots], loads=loads, drains=drains,
            os_drain=a.os_drain)

    def sums(self, contributions, last):
        """Count what is added to: the last contribution to an element is its result."""
        for count in contributions.values():
            self.add_to(count - 1)
            self.found[last] += 1

    def add_to(self, count):
        """Count sums that come and go."""
        if self.a.partial_sums == "edge":
            self.found["edge_sums"] += 2 * count
            return
        self.found["sum_writes"] += count
        if self.a.partial_sums == "read+write":
            self.found["sum_reads"] += count


def pieces(features, edge):
    """Return the features of each tile."""
    return [features[i:i + edge] for i in range(0, len(features), edge)]


def _copies(layer, a, samples):
    """Return the groups of each product, and whether all meet all."""
    if layer.kind == "matmul":
        return [[0]] * (layer.copies * samples), False
    groups = list(range(layer.groups))
    if a.groups == "dense":
        return [groups], True
    fit = max(1, min(layer.groups, a.rows // (layer.inputs // layer.groups),
                     a.columns // (layer.outputs // layer.groups)))
    # A copy with fewer groups takes as long as one that is full.
    return pieces(list(range(-(-layer.groups // fit) * fit)), fit), False


def _meetings(layer):
    """Yield position of Y, tap, position of X."""
    for y in product(*map(range, layer.out_size)):
        for tap in product(*map(range, layer.kernel)):
            x = tuple(y[i] * layer.stride[i] - layer.padding[i] + tap[i] * layer.dilation[i]
                      for i in range(2))
            if all(0 <= x[i] < layer.size[i] for i in range(2)):
                yield y, tap, x


def _samples(layer, samples):
    return range(1 if layer.kind == "matmul" and samples else samples)


def still(layer, a, samples):
    """Return the product in which D, or Y, stays."""
    copies, dense = _copies(layer, a, samples)
    taps = list(product(*map(range, layer.kernel)))
    patches = a.taps == "always" or (
        a.taps == "first" and not layer.input_gradient and layer.kind != "matmul")
    return Unit(
        layer=layer, a=a, copies=copies, dense=dense, patches=patches,
        taps=[taps] if patches else [[tap] for tap in taps],
        rows=[(s, *y) for s in _samples(layer, samples)
              for y in product(*map(range, layer.out_size))],
        there={(y, tap): x for y, tap, x in _meetings(layer)})


def moving(layer, a, samples):
    """Return the products of the input gradient: pixels that meet the same taps."""
    if a.taps == "always":
        return [still(layer, a, samples)]
    copies, dense = _copies(layer, a, samples)
    there = {(x, tap): y for y, tap, x in _meetings(layer)}
    found = []
    for phase in product(*map(range, layer.stride)):
        rows = [(s, *x) for s in _samples(layer, samples)
                for x in product(*map(range, layer.size))
                if all(x[i] % layer.stride[i] == phase[i] for i in range(2))]
        taps = [tap for tap in product(*map(range, layer.kernel)) if all(
            (phase[i] + layer.padding[i] - tap[i] * layer.dilation[i]) % layer.stride[i] == 0
            for i in range(2))]
        if rows and taps:
            found.append(Unit(layer=layer, a=a, copies=copies, dense=dense, rows=rows,
                              taps=[[tap] for tap in taps], there=there,
                              parts=dense and layer.groups > 1))
    return found


# Each pass.


def ws_forward(unit, folds):
    a, found = unit.a, unit.found
    sums = Counter()
    for chunk in unit.chunks(a.steps):
        slots = []
        for number, copy in enumerate(unit.copies):
            for ns in pieces(unit.n_features(copy), a.columns):
                for taps in unit.taps:
                    for ks in pieces(unit.k_features(copy, taps), a.rows):
                        found["w_reads"] += unit.weight_word(ks, ns)
                        slots.append(len(chunk))
                        for row in chunk:
                            found["x_reads"] += unit.x_word(row, ks)
                            for n in unit.filled(ns, a.columns):
                                sums[number, row, str(ns[0]), n] += 1
        unit.run(folds, slots, loads=True, drains=False, extra=unit.patches and folds == "chained",
                 words=[(a.rows, 8), (a.columns, a.sum_bits)])
    unit.sums(sums, "y_writes")


def _dx(unit, sums):
    """Count the sums of dX: of a word a row, or of the pixels of patches."""
    layer, a = unit.layer, unit.a
    if unit.patches and layer.taps > 1:
        pixels = len(_samples(layer, len({row[0] for row in unit.rows}))) * len(
            list(product(*map(range, layer.size)))) * layer.inputs
        met = Counter()
        for (_, row, _, k), count in sums.items():
            if a.padding == "counted":
                met["all"] += count
            elif (row[1:], k[0]) in unit.there:
                met["all"] += count
        unit.add_to(max(met["all"] - pixels, 0))
        unit.found["dx_writes"] += pixels
    else:
        unit.sums(sums, "dx_writes")
    if a.masks:
        unit.found["mask_reads"] = unit.found["dx_writes"]


def _d_exists(unit, row, taps):
    return unit.patches or (row[1:], taps[0]) in unit.there


def _passes(unit, tiles):
    """Return slots by pass: all of a chunk, or a k tile each."""
    if not unit.parts:
        return [[one for slots in tiles.values() for one in slots]]
    return list(tiles.values())


def backward(unit, folds, *, kind, lanes=1, fused=False):
    """Count dX, with dW on the same tiles unless `kind` is "dx"."""
    a, found = unit.a, unit.found
    sums, with_dw = Counter(), kind != "dx"
    for index, chunk in enumerate(unit.chunks(a.steps)):
        tiles = {}
        groups = -(-len(chunk) // lanes)
        for number, copy in enumerate(unit.copies):
            count = len(pieces(unit.k_features(copy, unit.taps[0]), a.rows))
            for block in range(count):
                first, again = True, len(unit.taps) * len(
                    pieces(unit.n_features(copy), a.columns)) > 1
                for taps, ns in product(unit.taps, pieces(unit.n_features(copy), a.columns)):
                    ks = pieces(unit.k_features(copy, taps), a.rows)[block]
                    found["w_reads"] += unit.weight_word(ks, ns)
                    here = 0
                    for row in chunk:                      # dX
                        here += 1
                        exists = _d_exists(unit, row, taps)
                        d_word = unit.word(a.columns, map(unit.real, ns)) if exists else 0
                        found["d_reads"] += d_word * (2 if kind == "tile" else 1)
                        for k in unit.filled(ks, a.rows):
                            sums[number, row, (block,), k if isinstance(k, str) or unit.patches
                                 else k[1:]] += 1
                    if with_dw:
                        here += _dw_slots(kind, len(chunk), groups, lanes)
                        found["os_slots"] += (groups if kind == "interleaved" else
                                              _dw_slots(kind, len(chunk), groups, lanes))
                        _dw_reads(unit, chunk, ks, lanes, first=first, again=again, still_x=True)
                        _dw_drain(unit, ks, ns, index, fused=fused)
                    first = False
                    tiles.setdefault((number, block), []).append(here)
        words = [(a.columns, a.gradient_bits), (a.rows, a.sum_bits)] + [(a.rows, 8)] * with_dw
        for slots in _passes(unit, tiles):
            unit.run(folds, slots, loads=True, drains=with_dw, words=words)
    _dx(unit, sums)


def _dw_slots(kind, steps, groups, lanes):
    """Return the slots of dW beside those of dX."""
    if kind == "interleaved":
        # A group's product follows its rows, which are filled up if it is ragged.
        return groups * lanes - steps + groups
    return steps if lanes == 1 else groups * lanes + 1


def _dw_reads(unit, chunk, ks, lanes, *, first, again, still_x):
    found, a = unit.found, unit.a
    for row in chunk:
        if still_x and not unit.patches and (first or lanes == 1):
            found["x_reads"] += unit.word(a.rows, map(unit.real, ks))
        elif first or lanes == 1:
            found["x_reads"] += unit.x_word(row, ks)
    if lanes > 1:
        for _ in pieces(chunk, lanes):
            word = unit.word(a.rows, map(unit.real, ks))
            found["packed_writes"] += word if first and again else 0
            found["packed_reads"] += 0 if first else word


def _dw_drain(unit, ks, ns, index, *, fused):
    found, word = unit.found, unit.weight_word(ks, ns)
    if fused:
        found["w_writes"] += word
        if unit.a.optimizer == "momentum":
            found["state_reads"] += word
            found["state_writes"] += word
    else:
        found["dw_writes"] += word
        found["dw_reads"] += word if index else 0


def os_weight_gradient(unit, folds, *, lanes=1, loads=False, fused=False, limited=False,
                       patch_cycle=True):
    a, found = unit.a, unit.found
    for index, chunk in enumerate(unit.chunks(a.steps if limited else None)):
        slots = []
        for copy in unit.copies:
            n_tiles = pieces(unit.n_features(copy), a.columns)
            for taps in unit.taps:
                for ks in pieces(unit.k_features(copy, taps), a.rows):
                    for position, ns in enumerate(n_tiles):
                        if loads:
                            found["w_reads"] += unit.weight_word(ks, ns)
                        slots.append(_dw_slots("os", len(chunk), -(-len(chunk) // lanes), lanes))
                        for _ in chunk:
                            found["d_reads"] += unit.word(a.columns, map(unit.real, ns))
                        _dw_reads(unit, chunk, ks, lanes, first=not position,
                                  again=len(n_tiles) > 1, still_x=False)
                        _dw_drain(unit, ks, ns, index, fused=fused)
        found["os_slots"] += sum(slots)
        unit.run(folds, slots, loads=loads, drains=True,
                 extra=patch_cycle and unit.patches and folds == "chained",
                 words=[(a.rows, 8), (a.columns, a.gradient_bits)])


def ws_weight_gradient(unit, folds, *, holds):
    a, found = unit.a, unit.found
    if not unit.rows:
        return
    sums = Counter()
    all_taps = [tap for taps in unit.taps for tap in taps]
    together, counted = unit.patches or holds == "d", a.padding == "counted"
    first = unit.copies[0]
    streams = len(unit.n_features(first) if holds == "x" else unit.k_features(first, all_taps))
    limit = a.steps or streams
    for start in range(0, streams, limit):
        slots = []
        for number, copy in enumerate(unit.copies):
            for taps in [all_taps] if together else unit.taps:
                x, d = unit.k_features(copy, taps), unit.n_features(copy)
                held, streamed = (x, d) if holds == "x" else (d, x)
                streamed = streamed[start:start + limit]
                for rows, columns in product(pieces(unit.rows, a.rows), pieces(held, a.columns)):
                    slots.append(min(limit, streams - start))
                    for row in rows + ["fill"] * (a.rows - len(rows)) * counted:
                        exists = [row == "fill" or unit.has(holds, row, one) for one in columns]
                        word = unit.word(a.columns, exists)
                        whole = any(exists) or (counted and (
                            unit.patches or (row[1:], taps[0]) in unit.there))
                        found[f"{holds}_reads"] += word if whole else 0
                    for one in streamed:
                        other = "d" if holds == "x" else "x"
                        found[f"{other}_reads"] += unit.word(
                            a.rows, [unit.has(other, row, one) for row in rows])
                        for still_one in unit.filled(columns, a.columns):
                            k, n = (still_one, one) if holds == "x" else (one, still_one)
                            if counted or unit.meet(k, n):
                                sums[number, str(taps[0]), str(columns[0]), still_one, one] += 1
        unit.run(folds, slots, loads=True, drains=False, words=[
            (a.rows, a.gradient_bits if holds == "x" else 8), (a.columns, a.sum_bits)])
    unit.sums(sums, "dw_writes")


def os_forward(unit, folds):
    a, found = unit.a, unit.found
    slots = []
    for copy in unit.copies:
        depth = [k for taps in unit.taps for k in unit.k_features(copy, taps)]
        for rows, ns in product(pieces(unit.rows, a.rows),
                                pieces(unit.n_features(copy), a.columns)):
            slots.append(len(depth))
            for k in depth:
                found["x_reads"] += unit.word(
                    a.rows, [unit.real(k) and (row[1:], k[0]) in unit.there for row in rows])
                found["w_reads"] += unit.word(a.columns, [unit.meet(k, n) for n in ns])
            for _ in range(len(rows) if a.padding == "free" else a.rows):
                found["y_writes"] += unit.word(a.columns, map(unit.real, ns))
    if slots:
        unit.found["os_slots"] += sum(slots)
        unit.run(folds, slots, loads=False, drains=True, words=[(a.rows, 8), (a.columns, 8)])


def os_input_gradient(unit, folds):
    a, found = unit.a, unit.found
    sums, tiles = Counter(), {}
    for number, copy in enumerate(unit.copies):
        depth = list(product(unit.taps, unit.n_features(copy)))
        for block, rows in product(
                range(len(pieces(unit.k_features(copy, unit.taps[0]), a.columns))),
                pieces(unit.rows, a.rows)):
            tiles.setdefault((number, block), []).append(len(depth))
            for taps, n in depth:
                ks = pieces(unit.k_features(copy, taps), a.columns)[block]
                found["d_reads"] += unit.word(
                    a.rows, [unit.real(n) and _d_exists(unit, row, taps) for row in rows])
                found["w_reads"] += unit.word(a.columns, [unit.meet(k, n) for k in ks])
            ks = pieces(unit.k_features(copy, unit.taps[0]), a.columns)[block]
            full = len(rows) if a.padding == "free" else a.rows
            for row, k in product([*rows, *range(full - len(rows))], unit.filled(ks, a.columns)):
                sums[number, row, (block,), k] += 1
    if unit.rows:
        slots = [one for some in tiles.values() for one in some]
        unit.found["os_slots"] += sum(slots)
        unit.run(folds, slots, loads=False, drains=True,
                 words=[(a.rows, a.gradient_bits), (a.columns, 8)])
    _dx(unit, sums)


def update(unit):
    a, found = unit.a, unit.found
    found["passes"] += 1
    found["cycles"] += 5 + a.lookup
    for copy, taps in product(unit.copies, unit.taps):
        for ks, ns in product(pieces(unit.k_features(copy, taps), a.rows),
                              pieces(unit.n_features(copy), a.columns)):
            for _ in range(a.rows):
                found["cycles"] += a.update_cycles
            names = ["dw_reads", "w_reads", "w_writes"]
            names += ["state_reads", "state_writes"] if a.optimizer == "momentum" else []
            for name in names:
                found[name] += unit.weight_word(ks, ns)


def reference(units, count, *args, **options):
    """Return what `count` finds in all units."""
    total = Counter()
    for unit in units:
        count(unit, *args, **options)
        total += unit.found
    return total
