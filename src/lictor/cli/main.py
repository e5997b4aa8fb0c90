"""The `lictor` command: the table of its subcommands, and those without a module.

What a person can do wrong ends in one line on stderr and exit code 1 (2 for wrong usage). Heavy
imports wait inside the commands, so that `lictor --help` is quick.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from lictor.cli.analyze import ANALYSES
from lictor.cli.bd import anchors, bd
from lictor.cli.codec_file import Device
from lictor.cli.coding import compress, decompress
from lictor.cli.convert import convert
from lictor.cli.data import DATA
from lictor.cli.evaluate import evaluate
from lictor.cli.info import LCODEC, info
from lictor.cli.messages import complain, say
from lictor.cli.quantize import quantize
from lictor.cli.report import report
from lictor.cli.runs import runs
from lictor.cli.verify import verify
from lictor.errors import ConfigError, DataError, LictorError

_DEMO = Path("lictor-demo")
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]


def _version() -> str:
    """Say what a report of a fault needs: the release, torch, and where it computes."""
    import platform

    import torch

    import lictor

    backends = {"CUDA": torch.cuda, "MPS": torch.backends.mps, "oneDNN": torch.backends.mkldnn}
    found = [name for name, backend in backends.items() if backend.is_available()]
    found.append(torch.backends.cpu.get_cpu_capability())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        f"lictor {lictor.__version__}\n"
        f"Python {platform.python_version()}  {platform.system()} {platform.machine()}\n"
        f"torch {torch.__version__}  {', '.join(found)}\n"
        f"devices  {', '.join(['cpu', *devices])}"
    )


def train(
    recipe: Positional[Path],
    /,
    *,
    data: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="PLACE[=WEIGHT]", help_behavior_hint="")
    ],
    out: Path,
    resume: bool = False,
    other_data: bool = False,
    device: Device = "auto",
    tensorboard: Folder = None,
    overrides: Annotated[
        tuple[str, ...], arg(name="set", metavar="KEY=VALUE...", help_behavior_hint="")
    ] = (),
) -> int:
    """Train a model on folders of pictures, or of signals, as a recipe says.

    Args:
        recipe: TOML file.
        data: Folder trees of PNG, JPEG and WebP pictures, shards of `lictor data pack`, or their
            URLs; each with a weight, its share of the crops, or none. May be given several times.
            For a recipe of signals: files or folders of them.
        out: Run folder: configuration, metrics, checkpoint.
        resume: Go on from the run folder's checkpoint.
        other_data: Let a resumed run go on with other pictures than it began with.
        device: auto, cpu, cuda, cuda:1, mps, xpu; auto takes the best that is there.
        tensorboard: Folder in which to keep what the run folder's metrics say for TensorBoard too.
        overrides: Changes to the recipe, such as train.steps=1000.
    """
    from lictor.cli.progress import log_to_terminal, show_training, stderr, stop_on_interrupt
    from lictor.reporting.tensorboard_log import tensorboard_log
    from lictor.runtime import processes
    from lictor.training.recipe import RunConfig, load_recipe
    from lictor.training.run import run

    config = load_recipe(recipe, overrides)
    with (
        tensorboard_log(tensorboard, out) as on_row,
        processes(device) as runtime,
        stop_on_interrupt() as should_stop,
    ):
        log_to_terminal(quiet=not runtime.is_first)
        reports = run(
            config,
            data,
            out,
            resume=resume,
            other_data=other_data,
            runtime=runtime,
            should_stop=should_stop,
            on_row=on_row,
        )
        last = show_training(reports, total=config.train.steps, log_every=config.train.log_every)
        done = last is None or last.step + 1 >= config.train.steps
    if done:
        needs = "" if isinstance(config, RunConfig) else f" --data {data[0]}"  # for its tables
        command = f"lictor freeze {out} -o {out.name}{LCODEC}{needs}"
        stderr.print(f"done; make a codec of it:  {command}", soft_wrap=True)
        return 0
    stderr.print("stopped; go on with the same command and --resume")
    return 130


def freeze(
    run: Positional[Path],
    /,
    *,
    out: Annotated[Path, arg(aliases=["-o"])],
    half: bool = False,
    int8: bool = False,
    best: bool = False,
    force: bool = False,
    data: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="PLACE", help_behavior_hint="")
    ] = (),
) -> int:
    """Turn a run's latest checkpoint into a codec file.

    A run that averages its weights is frozen with the averages.

    Args:
        run: Run folder of `lictor train`.
        out: Codec file to write, ending in .lcodec.
        best: Take the weights of the best evaluation so far, rather than the latest.
        half: Keep the weights in 16 bits: a file of half the size.
        int8: For a run of signals: keep the vectors of its linear part in 8 bits.
        force: Overwrite an existing file.
        data: For a run of signals: files or folders of signals such as it was trained on, which
            tell the tables of the codec.
    """
    import torch

    from lictor.cli.signals import freeze_signals, is_signal_run
    from lictor.codecs.learned import Codec
    from lictor.training.recipe import config_to_dict
    from lictor.training.run import load_run

    if out.exists() and not force:
        raise DataError(f"{out}: exists already; add --force to overwrite it")
    if half and int8:
        raise ConfigError(
            "--half and --int8: choose one; with --int8 all but vectors are in 16 bits"
        )
    if is_signal_run(run):
        weights = "int8" if int8 else "float16" if half else "float32"
        freeze_signals(run, out, data, best=best, weights=weights)
        return 0
    if data:
        raise ConfigError("--data is for runs of signals; a codec of pictures needs none")
    if int8:
        raise ConfigError("--int8 is for runs of signals; see `lictor quantize` for pictures")
    model, config, step = load_run(run, best=best)
    notes = {"steps": step, "recipe": config_to_dict(config)}
    dtype = torch.float16 if half else torch.float32
    codec = Codec.freeze(model, weight_dtype=dtype, notes=notes)
    codec.save(out)
    size = out.stat().st_size
    say(f"{run} -> {out}  {codec.name}  step {step}  {size} bytes  {codec.fingerprint.hex()}")
    return 0


def demo(
    *,
    modality: Literal["image", "audio", "volume", "field", "thumbnails"] = "image",
    out: Folder = None,
    train_s: float | None = None,
    force: bool = False,
) -> int:
    """Compress real data, check the decoding, compare with traditional codecs, train a little.

    Args:
        modality: What is compressed: photographs, or signals with the codec of their kind that
            ships with lictor.
        out: Folder for everything that the demo makes; lictor-demo if not given, of signals
            lictor-demo/MODALITY.
        train_s: Seconds to train a small model of pictures for; 60 if not given.
        force: Replace what an earlier demo left in the folder.
    """
    if modality != "image":
        if train_s is not None:
            raise ConfigError("--train-s is for the demo of pictures; leave it out")
        from lictor.cli.demo_signals import run_signal_demo

        return run_signal_demo(modality, out or _DEMO / modality, force=force)
    from lictor.cli.demo import run_demo

    return run_demo(out or _DEMO, train_s=60.0 if train_s is None else train_s, force=force)


COMMANDS: dict[str, Callable[..., int]] = {
    "compress": compress,
    "decompress": decompress,
    "info": info,
    "verify": verify,
    "evaluate": evaluate,
    "bd": bd,
    "anchors": anchors,
    "report": report,
    "train": train,
    "runs": runs,
    "freeze": freeze,
    "quantize": quantize,
    "convert": convert,
    "demo": demo,
}


# Options that take several values. Given twice, the second would silently replace the first.
_LISTS = ("--set", "--codecs")
_EQUALS = tuple(f"{name}=" for name in _LISTS)


def _gathered(args: Sequence[str]) -> list[str]:
    """Return the arguments with the values of each of `_LISTS` behind its first place."""
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    option = ""
    split = [part for a in args for part in (a.split("=", 1) if a.startswith(_EQUALS) else [a])]
    for argument in split:
        if argument.startswith("-"):
            option = argument if argument in _LISTS else ""
            if option not in values:
                rest.append(argument)
            if option:
                values.setdefault(option, [])
        elif option:
            values[option].append(argument)
        else:
            rest.append(argument)
    return [part for argument in rest for part in (argument, *values.get(argument, ()))]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    analyze = tyro.extras.SubcommandApp()
    for name, command in ANALYSES.items():
        analyze.command(name=name)(command)
    if list(sys.argv[1:] if args is None else args) == ["--version"]:
        say(_version())
        sys.exit(0)
    app.command(analyze, name="analyze", help="Look into a model or into its training.")
    data = tyro.extras.SubcommandApp()
    for name, command in DATA.items():
        data.command(name=name)(command)
    app.command(data, name="data", help="Prepare pictures for training.")
    if sys.stdout is None:  # closed by the caller: >&-
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
    try:
        code = app.cli(
            args=_gathered(sys.argv[1:] if args is None else args),
            prog="lictor",
            description="Learned image compression: from photographs to files and back. "
            "`lictor --version` tells the release and what it runs on.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        sys.stdout.flush()
    except LictorError as error:
        complain(error)
        code = 1
    except KeyboardInterrupt:
        complain("interrupted")
        code = 130
    except BrokenPipeError:
        # The reader went away (`lictor info ... | head`): not an error worth a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # what a command writes to files is checked where it is written
        complain(f"cannot write to the terminal or pipe ({error.strerror})")
        code = 1
    except MemoryError:
        complain(
            "out of memory; make the picture, data.crop_size, train.batch_size or --jobs smaller"
        )
        code = 1
    sys.exit(code)
