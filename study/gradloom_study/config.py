"""What to study, from a TOML file: data, schedule, and a grid of networks, policies and seeds."""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .data import DATA, DATA_SHAPES
from .networks import NETWORKS, NORMS
from .policies.precision import complete_precision, make_precision
from .policies.skip import Schedule, complete_skip, make_skip

__all__ = ["ARITHMETICS", "VERSION", "Cell", "PolicySpec", "Study", "read_study"]

ARITHMETICS = ("integer", "float")

VERSION = 2
"""Of what runs learn and record: to be raised where either changes, so that none goes on mixed."""

LEAST = {"epochs": 1, "batch": 2, "rate": 0, "momentum": 0, "shift": 0, "test_every": 1,
         "train_samples": 0, "test_samples": 0}
"""What the numbers of a study are at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """One way to train.

    Parameters
    ----------
    name : str
    arithmetic : str
        "integer", the machine's, or "float".
    skip, precision : dict
        Tables that `make_skip` and `make_precision` take; defaults are filled in.
    epochs : int
        Of a run with another length; 0 takes the study's.
    like : str
        Name of a policy; the run has as many epochs as give the same backward work.
    """

    name: str
    arithmetic: str = "integer"
    skip: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    like: str = ""

    def __post_init__(self):
        if self.arithmetic not in ARITHMETICS:
            raise ValueError(
                f"policy {self.name!r}: arithmetic must be integer or float, not "
                f"{self.arithmetic!r}")
        _check_type(f"policy {self.name!r}: epochs", self.epochs, int)
        if self.epochs < 0:
            raise ValueError(
                f"policy {self.name!r}: epochs must be at least 1, not {self.epochs!r}")
        schedule = Schedule(epochs=2, samples=2, rates=(0.0, 0.0))
        try:
            # What a later version takes by default must not pass for what this one took.
            object.__setattr__(self, "skip", complete_skip(self.skip))
            object.__setattr__(self, "precision", complete_precision(self.precision))
            make_skip(self.skip, schedule, np.random.default_rng(0))
            make_precision(self.precision, 2)
        except ValueError as error:
            raise ValueError(f"policy {self.name!r}: {error}") from None
        if self.arithmetic == "float" and self.precision != complete_precision({}):
            raise ValueError(
                f"policy {self.name!r} is in float, which has no bits to choose: leave out "
                "precision")
        if self.like and (self.epochs or self.skip["kind"] != "none"):
            raise ValueError(
                f"policy {self.name!r} is like {self.like!r}, which says how long it is, and keeps "
                "all samples: it has no epochs or skip of its own")

    @property
    def follows(self) -> str:
        """Name of the policy that has to be run before this one; none if empty."""
        return self.like or self.skip.get("follows", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of the grid."""

    study: "Study"
    network: str
    policy: PolicySpec
    seed: int

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.network}-{self.policy.name}-{self.seed}"

    @property
    def follows(self) -> "Cell | None":
        """The cell that has to be run before this one."""
        return self.study.cell(self.network, self.policy.follows, self.seed)

    def fingerprint(self) -> str:
        """Return a text that differs where a result would."""
        described = {
            "version": VERSION, **self.study.common(), "network": self.study.networks[self.network],
            "policy": asdict(self.policy), "seed": self.seed,
            "follows": self.follows.fingerprint() if self.follows else ""}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A grid.

    Parameters
    ----------
    name : str
    data : str
        Among `gradloom_study.data.DATA`.
    networks : dict of str to dict
        By name: `kind` among `gradloom_study.networks.NETWORKS`, and its options.
    policies : tuple of PolicySpec
    seeds : tuple of int
    epochs, batch : int
    rate : int
        -log2 of the learning rate, for the mean over the batch.
    momentum : int
        The velocity keeps 1 - 2**-momentum of itself; 0 has none.
    halvings : tuple of float
        Shares of the run after which the learning rate is halved.
    shift : int
        Pixels by which training images are moved at most, at random.
    flip : bool
        Mirror half of them.
    angles : bool
        Measure angles once an epoch also where no policy asks for them.
    train_samples, test_samples : int
        How many, from the first; 0 takes all.
    test_every : int
        Epochs from one test to the next; the last epoch always has one.
    """

    name: str
    data: str
    networks: dict[str, dict[str, Any]]
    policies: tuple[PolicySpec, ...]
    seeds: tuple[int, ...] = (1,)
    epochs: int = 10
    batch: int = 128
    rate: int = 4
    momentum: int = 3
    halvings: tuple[float, ...] = (1 / 2, 3 / 4, 7 / 8)
    shift: int = 0
    flip: bool = False
    angles: bool = False
    train_samples: int = 0
    test_samples: int = 0
    test_every: int = 1

    def __post_init__(self):
        for entry in fields(self):
            if entry.type in (int, bool, str):
                _check_type(entry.name, getattr(self, entry.name), entry.type)
        if self.data not in DATA:
            raise ValueError(f"unknown data {self.data!r}; choose from {', '.join(DATA)}")
        if not self.networks or not self.policies or not self.seeds:
            raise ValueError("a study needs at least one network, one policy and one seed")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)!r}")
        if self.batch & self.batch - 1:
            raise ValueError(f"batch must be a power of two from 2, not {self.batch!r}")
        for share in self.halvings:
            if type(share) not in (int, float) or not 0 <= share <= 1:
                raise ValueError(f"halvings must be shares from 0 to 1, not {share!r}")
        for seed in self.seeds:
            if type(seed) is not int or seed < 0 or self.seeds.count(seed) > 1:
                raise ValueError(
                    f"seeds must be integers from 0, each once, not {list(self.seeds)!r}")
        for name, options in self.networks.items():
            _check_network(name, options, self.data)
        self._check_policies()
        self._check_names()

    def _check_policies(self):
        names = [policy.name for policy in self.policies]
        epochs = {policy.name: policy.epochs or self.epochs for policy in self.policies}
        lengths = {policy.name: policy.like or epochs[policy.name] for policy in self.policies}
        for policy in self.policies:
            if names.count(policy.name) > 1:
                raise ValueError(f"two policies are called {policy.name!r}: rename one")
            extra = np.max(policy.skip.get("extra", 0))
            if extra > self.rate:
                raise ValueError(
                    f"policy {policy.name!r} has an extra of {extra}, for which no rate of "
                    f"2^-{self.rate} can make up: raise rate to {extra}, or lower extra")
            if not policy.follows:
                continue
            if policy.follows not in names[:names.index(policy.name)]:
                raise ValueError(
                    f"policy {policy.name!r} follows {policy.follows!r}, which does not come "
                    "before it: put it there")
            if not policy.like and lengths[policy.follows] != lengths[policy.name]:
                raise ValueError(
                    f"policy {policy.name!r} follows {policy.follows!r} epoch by epoch, which has "
                    "another number of them: give both the same")

    def _check_names(self):
        for name in (self.name, *self.networks, *(policy.name for policy in self.policies)):
            if not name.strip() or name.startswith(".") or set(name) & set("/\\\0\n"):
                raise ValueError(f"{name!r} is to be part of a file's name: use other characters")
        names = [cell.name for cell in self.cells]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two runs would be called {name!r}: rename a network or a policy")

    def cell(self, network: str, policy: str, seed: int) -> Cell | None:
        """Return the run of a network, a policy and a seed, perhaps one not among the seeds."""
        known = {one.name: one for one in self.policies}
        if network not in self.networks or policy not in known:
            return None
        return Cell(study=self, network=network, policy=known[policy], seed=seed)

    def common(self) -> dict[str, Any]:
        """Return the settings that all cells share, as JSON has them."""
        own = {name: value for name, value in asdict(self).items()
               if name not in ("policies", "networks", "seeds", "name")}
        return json.loads(json.dumps(own))

    @property
    def cells(self) -> list[Cell]:
        """All runs: seeds in the outer loop, so that each is soon complete."""
        return [Cell(study=self, network=network, policy=policy, seed=seed)
                for seed in self.seeds for network in self.networks for policy in self.policies]


def _check_type(name: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}")


def _check_network(name: str, options: dict[str, Any], data: str) -> None:
    options = dict(options)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise ValueError(f"network {name!r}: kind must be one of {', '.join(NETWORKS)}, not "
                         f"{kind!r}")
    if options.get("norm", NORMS[0]) not in NORMS:
        raise ValueError(f"network {name!r}: norm must be one of {', '.join(NORMS)}, not "
                         f"{options['norm']!r}")
    for option, value in options.items():
        if option not in ("norm", "hidden") and (type(value) is not int or value < 1):
            raise ValueError(
                f"network {name!r}: {option} must be an integer of at least 1, not {value!r}")
    try:
        NETWORKS[kind](*DATA_SHAPES[data], **options).macs()
    except (TypeError, ValueError) as error:
        raise ValueError(f"network {name!r}: {error}") from None


def read_study(path: Path) -> Study:
    """Return the study that a TOML file describes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no TOML, or a value is not one that a study can have; the message names it.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    try:
        return _study(content, path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _study(content: dict[str, Any], name: str) -> Study:
    known = {entry.name for entry in fields(Study)} - {"networks", "policies"} | {
        "network", "policy"}
    _refuse_unknown("study", content, known)
    options = dict(content)
    policies = tuple(_policy(entry) for entry in _tables(options, "policy"))
    networks: dict[str, dict[str, Any]] = {}
    for entry in _tables(options, "network"):
        _check_name("network", entry)
        if entry["name"] in networks:
            raise ValueError(f"two networks are called {entry['name']!r}: rename one")
        networks[entry["name"]] = {key: value for key, value in entry.items() if key != "name"}
    if "data" not in options:
        raise ValueError(f"data is missing: choose from {', '.join(DATA)}")
    for listed in ("seeds", "halvings"):
        if listed in options:
            if not isinstance(options[listed], list):
                raise ValueError(f"{listed} must be a list, not {options[listed]!r}")
            options[listed] = tuple(options[listed])
    options.setdefault("name", name)
    return Study(networks=networks, policies=policies, **options)


def _tables(options: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = options.pop(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{name} must be tables, each under [[{name}]]")
    return found


def _policy(entry: dict[str, Any]) -> PolicySpec:
    _check_name("policy", entry)
    _refuse_unknown(f"policy {entry['name']!r}", entry,
                    {entry.name for entry in fields(PolicySpec)})
    return PolicySpec(**entry)


def _check_name(what: str, entry: dict[str, Any]) -> None:
    if "name" not in entry:
        raise ValueError(f"a {what} lacks its name: add one")
    _check_type(f"a {what}'s name", entry["name"], str)


def _refuse_unknown(where: str, entry: dict[str, Any], known: set[str]) -> None:
    for name in entry:
        if name not in known:
            raise ValueError(
                f"{where} has no {name!r}; choose from {', '.join(sorted(known))}")
