"""What to study, from a TOML file: data, schedule, and a grid of networks, policies and seeds."""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .data import DATA
from .networks import NETWORKS, NORMS
from .policies.precision import make_precision
from .policies.skip import Schedule, make_skip

__all__ = ["ARITHMETICS", "Cell", "PolicySpec", "Study", "read_study"]

ARITHMETICS = ("integer", "float")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """One way to train.

    Parameters
    ----------
    name : str
    arithmetic : str
        "integer", the machine's, or "float".
    skip, precision : dict
        Tables that `make_skip` and `make_precision` take.
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
        try:
            schedule = Schedule(epochs=2, samples=2, rates=(0.0, 0.0))
            make_skip(self.skip, schedule, np.random.default_rng(0))
            make_precision(self.precision, 2)
        except ValueError as error:
            raise ValueError(f"policy {self.name!r}: {error}") from None

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
    def follows(self) -> str:
        """Name of the cell that has to be run before this one; none if empty."""
        return f"{self.network}-{self.policy.follows}-{self.seed}" if self.policy.follows else ""

    def fingerprint(self) -> str:
        """Return a text that differs where a result would."""
        described = {name: value for name, value in asdict(self.study).items()
                     if name not in ("policies", "networks", "seeds", "name")}
        described |= {"network": self.study.networks[self.network],
                      "policy": asdict(self.policy), "seed": self.seed}
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
            value = getattr(self, entry.name)
            if entry.type in (int, bool, str) and type(value) is not entry.type:
                raise TypeError(
                    f"{entry.name} must be of type {entry.type.__name__}, not {value!r}")
        if self.data not in DATA:
            raise ValueError(f"unknown data {self.data!r}; choose from {', '.join(DATA)}")
        if not self.networks or not self.policies or not self.seeds:
            raise ValueError("a study needs at least one network, one policy and one seed")
        for name, options in self.networks.items():
            _check_network(name, options)
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs!r}")
        if self.shift < 0:
            raise ValueError(f"shift must be at least 0, not {self.shift!r}")
        if self.test_every < 1:
            raise ValueError(f"test_every must be at least 1, not {self.test_every!r}")
        if self.batch < 2 or self.batch & self.batch - 1:
            raise ValueError(f"batch must be a power of two from 2, not {self.batch!r}")
        self._check_policies()

    def _check_policies(self):
        names = [policy.name for policy in self.policies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two policies are called {name!r}: rename one")
        for policy in self.policies:
            if policy.follows and policy.follows not in names[:names.index(policy.name)]:
                raise ValueError(
                    f"policy {policy.name!r} follows {policy.follows!r}, which does not come "
                    "before it: put it there")

    @property
    def cells(self) -> list[Cell]:
        """All runs: seeds in the outer loop, so that each is complete before the next begins."""
        return [Cell(study=self, network=network, policy=policy, seed=seed)
                for seed in self.seeds for network in self.networks for policy in self.policies]


def _check_network(name: str, options: dict[str, Any]) -> None:
    for option, choices in (("kind", tuple(NETWORKS)), ("norm", NORMS)):
        value = options.get(option, NORMS[0] if option == "norm" else None)
        if value not in choices:
            raise ValueError(f"network {name!r}: {option} must be one of {', '.join(choices)}, "
                             f"not {value!r}")


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
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
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
    policies = tuple(_policy(entry) for entry in options.pop("policy", []))
    networks = {}
    for entry in options.pop("network", []):
        if "name" not in entry:
            raise ValueError("a network lacks its name: add one")
        networks[entry["name"]] = {key: value for key, value in entry.items() if key != "name"}
    if "data" not in options:
        raise ValueError(f"data is missing: choose from {', '.join(DATA)}")
    for listed in ("seeds", "halvings"):
        if listed in options:
            options[listed] = tuple(options[listed])
    options.setdefault("name", name)
    return Study(networks=networks, policies=policies, **options)


def _policy(entry: dict[str, Any]) -> PolicySpec:
    if "name" not in entry:
        raise ValueError("a policy lacks its name: add one")
    _refuse_unknown(f"policy {entry['name']!r}", entry,
                    {entry.name for entry in fields(PolicySpec)})
    return PolicySpec(**entry)


def _refuse_unknown(where: str, entry: dict[str, Any], known: set[str]) -> None:
    for name in entry:
        if name not in known:
            raise ValueError(
                f"{where} has no {name!r}; choose from {', '.join(sorted(known))}")
