"""The command line."""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from gradloom_golden.config import PRESETS, Config, preset
from gradloom_golden.importance import MOST
from gradloom_golden.program import Schedule

from .device import BACKENDS, Device, DeviceError, Mismatch
from .digits import digits
from .files import write_file
from .missing import MissingExtraError, require
from .trace import PASSES, draw, trace

__all__ = ["main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

OF_OTHER_DATA = {
    "digits": {
        "budget": "the host skips digits; use --skip",
        "importance": "the host skips digits; use --skip",
        "samples": "an epoch of digits has all of them",
        "data": "digits come with scikit-learn"},
    "fashion-mnist": {"hidden": "its network is given"},
}
"""Options of `train` that say nothing about a data set, and why."""


class _Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message):
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 when done, 1 if a check failed, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except Mismatch as error:
        print(f"gradloom: check failed: {error}", file=sys.stderr)
        return FAILED
    except (ValueError, TypeError, OSError, MissingExtraError, DeviceError) as error:
        print(f"gradloom: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE
    except RuntimeError as error:                          # a compiler or simulator that failed
        print(f"gradloom: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("gradloom: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gradloom", description="Generate, train on and measure the machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    verilog = commands.add_parser("verilog", help="write a machine as Verilog")
    _add_machine(verilog, positional=True)
    verilog.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                         help="folder for gradloom_axi.v, gradloom.h, config.json, interface.json")
    verilog.set_defaults(command=_verilog)

    train = commands.add_parser("train", help="train a network on the machine")
    train.add_argument("network", choices=("digits", "fashion-mnist"), metavar="DATA",
                       help="digits: scikit-learn's, fully connected; fashion-mnist: a small CNN, "
                       "through the AXI ports")
    _add_machine(train, default=None)
    train.add_argument("--data", type=Path, metavar="DIR",
                       help="folder of the four IDX files of fashion-mnist (default: where "
                       "Debian's dataset-fashion-mnist puts them)")
    train.add_argument("--samples", type=_count, metavar="N",
                       help="samples of an epoch of fashion-mnist (default: all)")
    train.add_argument("--backend", choices=BACKENDS, default="rtl",
                       help="the Verilog in Verilator, with multipliers and choices written in "
                       "ways proved equal unless GRADLOOM_AS_SHIPPED is set; or the NumPy model "
                       "(default rtl)")
    train.add_argument("--epochs", type=_count, metavar="N",
                       help="default 20, of fashion-mnist 1")
    train.add_argument("--hidden", type=_sizes, metavar="N[,N...]",
                       help="features of the hidden layers of digits (default 96)")
    skip = train.add_mutually_exclusive_group()
    skip.add_argument("--skip", type=_skip, default=0.95, metavar="P",
                      help="leave out samples whose label may have at least this probability; "
                      "off keeps all (default 0.95)")
    skip.add_argument("--budget", type=_budget, metavar="E",
                      help="of fashion-mnist: from the second epoch on leave out the surest "
                      "samples, as many as hold this share of the squared error of the epoch "
                      "before")
    skip.add_argument("--importance", type=_cap, metavar="N",
                      help="of fashion-mnist: keep samples by chance, the surer the rarer, the "
                      "surest one time in 2^N (1 to 7), and weight them so that the gradient stays "
                      "that of all on average")
    train.add_argument("--lanes", type=_lanes, default=None, metavar="auto|2|4|8",
                       help="activation bits of the weight gradient; auto measures, for "
                       "fashion-mnist it is 8 (default)")
    train.add_argument("--schedule", choices=("interleaved", "sequential"), default="interleaved",
                       help="order of the two gradients on the array (default interleaved)")
    train.add_argument("--seed", type=int, default=1, metavar="N", help="default 1")
    train.add_argument("--check", action="store_true",
                       help="compare every result with the golden model; exit 1 at a difference")
    train.add_argument("--report", type=Path, metavar="DIR",
                       help="write run.json (and of digits run.png) there")
    train.add_argument("--waves", type=Path, metavar="FILE",
                       help="write all signals of the RTL there, as .fst (needs zlib and lz4) or "
                       ".vcd; large and slow")
    train.set_defaults(command=_train)

    trace = commands.add_parser("trace", help="draw what every cell does in every cycle")
    _add_machine(trace, positional=True)
    trace.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
                       help="picture, PNG")
    trace.add_argument("--schedule", choices=tuple(PASSES), default="interleaved",
                       help="the pass to run (default interleaved)")
    trace.add_argument("--steps", type=_count, default=16, metavar="T",
                       help="rows that a tile streams (default 16)")
    trace.add_argument("--lanes", type=_count, default=1, metavar="1|2|4",
                       help="activations in a word for the weight gradient (default 1)")
    trace.add_argument("--tiles", type=_count, default=1, metavar="N",
                       help="tiles side by side (default 1)")
    trace.set_defaults(command=_trace)

    area = commands.add_parser("area", help="synthesize a machine and its baselines with Yosys")
    _add_machine(area, positional=True)
    area.add_argument("--liberty", type=Path, metavar="FILE",
                      help="cell library, .lib or .lib.gz (default: a generic estimate)")
    area.add_argument("--report", type=Path, metavar="DIR", help="write area.json there")
    area.set_defaults(command=_area)

    _add_estimate(commands)
    _add_study(commands)
    return parser


def _add_estimate(commands) -> None:
    estimate = commands.add_parser(
        "estimate", help="cycles, accesses and energy of training any network, without building")
    estimate.add_argument("network", nargs="?", metavar="NETWORK",
                          help="one of --list, or the path of a .csv or .onnx file")
    estimate.add_argument("--list", action="store_true",
                          help="print the networks, energy tables and schedules that there are")
    estimate.add_argument("--preset", metavar="PRESET",
                          help=f"machine: one of {', '.join(PRESETS)}, or a config.json (default: "
                          "none, as the printed assumptions say)")
    estimate.add_argument("--array", type=_edges, metavar="RxC",
                          help="rows and columns of the array (default 32x32)")
    estimate.add_argument("--batch", type=_count, metavar="N",
                          help="samples of a training step (default 16)")
    estimate.add_argument("--skip", type=_part, metavar="S",
                          help="share of the samples that schedules with skip leave out, 0 to 1 "
                          "(default 0.7583)")
    estimate.add_argument("--lanes", type=int, choices=(2, 4, 8), metavar="2|4|8",
                          help="activation bits of schedules with lanes (default 2)")
    estimate.add_argument("--schedule", type=_names, action="extend", metavar="NAME[,NAME...]",
                          help="what to print and write (default: all)")
    estimate.add_argument("--energy", default="horowitz45", metavar="TABLE",
                          help="energies: one of --list, or a .toml file (default horowitz45)")
    estimate.add_argument("--dram", metavar="NAME",
                          help="DRAM in place of the energy table's own, one of --list")
    estimate.add_argument("--set", action="extend", nargs="+", default=[], metavar="FIELD=VALUE",
                          dest="changes", help="change any of the assumptions that are printed")
    estimate.add_argument("--size", action="extend", nargs="+", default=[], metavar="NAME=NUMBER",
                          help="sizes of symbolic dimensions of an .onnx file")
    estimate.add_argument("--iso-area", action="store_true",
                          help="also compare arrays of equal area: the baselines enlarged to ours, "
                          "ours shrunk to a plain one")
    estimate.add_argument("--layers", action="store_true",
                          help="print each layer, under the schedules of --schedule or under best")
    for kind, what in (("json", "all numbers"), ("csv", "a row a layer, schedule and pass"),
                       ("html", "a page with charts that needs no network")):
        estimate.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write {what} there")
    estimate.set_defaults(command=_estimate)


def _add_study(commands) -> None:
    study = commands.add_parser("study", help="train networks in the machine's arithmetic, skip "
                                "and precision by policy, and compare")
    study.add_argument("words", nargs="+", metavar="CONFIG.toml | plot RESULTS | page RESULTS...",
                       help="run a grid, or what is left of it; draw its results; or write the "
                       "page about them")
    study.add_argument("-o", "--output", type=Path, metavar="PATH",
                       help="folder of the results and pictures (default build/study/NAME; of "
                       "plot where the results lie), of page the file (default "
                       "docs/accuracy.md)")
    study.add_argument("--data", type=Path, metavar="DIR",
                       help="folder of the data, where it does not come with a package")
    study.add_argument("--processes", type=_count, metavar="N",
                       help="runs at once (default 1)")
    study.add_argument("--threads", type=_count, metavar="N",
                       help="of each run (default 1)")
    study.add_argument("--device", action="extend", nargs="+", default=[], metavar="NAME",
                       help="PyTorch devices on which runs take turns, e.g. cuda:0 cuda:1 "
                       "(default cpu)")
    study.add_argument("--scheduler", metavar="ADDRESS",
                       help="let a Dask cluster do the runs, e.g. tcp://host:8786")
    study.add_argument("--only", action="extend", nargs="+", default=[], metavar="POLICY",
                       help="run only these policies of the configuration; what they follow has "
                       "to be among them, or done")
    study.set_defaults(command=_study)


def _add_machine(parser: argparse.ArgumentParser, *, positional: bool = False,
                 default: str | None = "edge") -> None:
    names = ", ".join(PRESETS)
    if positional:
        parser.add_argument("preset", metavar="PRESET", help=f"one of {names}, or a config.json")
    else:
        shown = default or "edge, of fashion-mnist base"
        parser.add_argument("--preset", default=default, metavar="PRESET",
                            help=f"one of {names}, or a config.json (default {shown})")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="FIELD=VALUE",
                        dest="changes", help="change fields of the preset, e.g. rows=16 columns=16")


def _config(options: argparse.Namespace) -> Config:
    changes = {}
    kinds = {field.name: field.type for field in fields(Config)}
    for change in options.changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, not {change!r}")
        changes[name] = _value(text, kinds.get(name))
    return _preset(options.preset).with_changes(**changes)


def _preset(base: str) -> Config:
    return Config.from_json(Path(base).read_text()) if base.endswith(".json") else preset(base)


def _value(text: str, kind):
    if kind is bool:
        choices = {"true": True, "false": False, "on": True, "off": False, "1": True, "0": False}
        if text.lower() not in choices:
            raise ValueError(f"a switch is true or false, not {text!r}")
        return choices[text.lower()]
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"a size is a whole number, not {text!r}") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers with commas between") from None
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"a layer has at least 1 feature, not {min(sizes)}")
    return sizes


def _share(text: str, least: float, *, otherwise: str = "") -> float:
    """Return a number above `least` and below 1."""
    value = _number(text)
    if not least < value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not between {least:g} and 1{otherwise}")
    return value


def _number(text: str) -> float:
    """Return a number, or one that lies in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _part(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _edges(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxCOLUMNS, such as 32x32")
    return int(rows), int(columns)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _skip(text: str) -> float | None:
    return None if text == "off" else _share(text, 0.5, otherwise=", nor off")


def _budget(text: str) -> float:
    return _share(text, 0)


def _cap(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to {MOST}")
    return int(text)


def _lanes(text: str) -> int | None:
    choices = {"auto": None, "2": 2, "4": 4, "8": 8}
    if text not in choices:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, 2, 4 or 8")
    return choices[text]


def _verilog(options: argparse.Namespace) -> int:
    from .export import write_machine  # noqa: PLC0415 - Amaranth, which only this command needs

    for path in write_machine(_config(options), options.output):
        print(path)
    return DONE


def _train(options: argparse.Namespace) -> int:
    for name, why in OF_OTHER_DATA[options.network].items():
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is not for {options.network}: {why}")
    if options.network == "fashion-mnist":
        from .image_command import train_images  # noqa: PLC0415 - only this network needs it

        options.preset = options.preset or "base"
        return train_images(options, _config(options))
    options.preset = options.preset or "edge"
    return _train_digits(options)


def _train_digits(options: argparse.Namespace) -> int:
    # Rich is quick to import, the trainer is not needed by the other commands.
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from .report import Run, epochs_table, summary_table, write_report  # noqa: PLC0415
    from .trainer import Settings, Trainer  # noqa: PLC0415

    config = _config(options)
    given = {name: value for name in ("hidden", "epochs")
             if (value := getattr(options, name)) is not None}
    settings = Settings(
        **given, skip=options.skip, lanes=options.lanes,
        schedule=Schedule[options.schedule.upper()], seed=options.seed)
    data = digits()
    if options.report is not None:
        require("matplotlib", "train")                     # before the training, not after
        options.report.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        building = "compiling the machine" if options.backend == "rtl" else "starting"
        task = progress.add_task(building, total=None)
        device = Device(config, options.backend, check=options.check, waves=options.waves)
        trainer = Trainer(device, data, settings)
        progress.update(task, description="training", total=1.0, completed=0.0)
        started, cycles = time.monotonic(), device.simulated_cycles
        epochs = trainer.train(lambda done: progress.update(task, completed=done))
        seconds = time.monotonic() - started
    run = Run(config=config, settings=settings, backend=options.backend, checked=options.check,
              epochs=epochs, simulated_cycles=device.simulated_cycles - cycles, seconds=seconds)
    device.close()
    console.print(epochs_table(run))
    console.print(summary_table(run))
    if options.report is not None:
        for path in write_report(run, options.report):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return DONE


def _trace(options: argparse.Namespace) -> int:
    config = _config(options)
    require("matplotlib", "train")                         # before the run, not after
    found = trace(config, options.schedule, steps=options.steps, lanes=options.lanes,
                  tiles=options.tiles)
    title = f"{config.rows}x{config.columns}, {options.schedule}, {options.steps} steps"
    if options.lanes > 1:
        title += f", {options.lanes} lanes"
    if options.tiles > 1:
        title += f", {options.tiles} tiles"
    write_file(options.output, draw(found, title))
    print(options.output)
    return DONE


def _area(options: argparse.Namespace) -> int:
    from gradloom_synth.command import area_command  # noqa: PLC0415 - needs the synth extra

    return area_command(_config(options), options.preset, options.liberty, options.report)


def _estimate(options: argparse.Namespace) -> int:
    from gradloom_model.reports.command import estimate_command  # noqa: PLC0415 - as the others

    return estimate_command(options, None if options.preset is None else _preset(options.preset))


def _study(options: argparse.Namespace) -> int:
    # Its modules import PyTorch, which an extra installs.
    require("torch", "study")
    from gradloom_study.command import study_command  # noqa: PLC0415

    return study_command(options)
