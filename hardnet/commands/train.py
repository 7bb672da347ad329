"""The `train` and `download` verbs of the `hardnet` command."""

import argparse
import logging
import math
import sys
from pathlib import Path

from hardnet.errors import TrainingError

_TRAIN_HELP = """\
Trains HardNet, a smaller network, or AffNet by a recipe, or goes on where an earlier call with the same --run stopped.

A run is a folder: checkpoint.pth while it goes, NAME.safetensors when it is done. It may be cut off at any time;
the same command takes it up again from the last checkpoint and ends with the same weights.
Curves: tensorboard --logdir logs. Several GPUs, processes or machines: torchrun (below; the lone -- is needed)."""

_TRAIN_EXAMPLES = """\
examples:
  hardnet download liberty notredame -o data/patches
  hardnet train configs/hardnet/liberty.yaml --run runs/liberty        the paper's recipe
  hardnet train configs/hardnet/open.yaml --run runs/open --steps 500  500 steps now, the rest another time
  hardnet train configs/hardnet/affnet.yaml --run runs/affnet          shapes of regions
  hardnet train configs/hardnet/liberty.yaml --run runs/short --set phases.0.batch=256 --set phases.0.pairs=1000000
  torchrun --standalone --nproc-per-node 4 --no-python -- hardnet train liberty --run runs/liberty    on four GPUs
  hardnet train configs/hardnet/small.yaml --run runs/hardnet-small    a smaller network, from the bundled one
  hardnet describe patches.png out.npy --descriptor runs/open/hardnet.safetensors"""

_DOWNLOAD_HELP = """\
Fetches sets of the PhotoTour benchmark (Winder and Brown 2007), about 600 MB each; an interrupted download goes on."""

_DOWNLOAD_EXAMPLES = """\
example:
  hardnet download liberty notredame yosemite -o data/patches"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verbs."""
    train = verbs.add_parser(
        "train",
        help="train HardNet, a smaller network or AffNet by a recipe",
        description=_TRAIN_HELP,
        epilog=_TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "recipe", metavar="RECIPE", help="YAML file, see configs/hardnet/; or the name of one there, such as liberty"
    )
    train.add_argument("--run", metavar="DIR", type=Path, required=True, help="folder of the run", dest="folder")
    train.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:<n>")
    train.add_argument("--steps", type=int, default=0, metavar="N", help="at most so many steps now (default: all)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value in the recipe")
    train.add_argument("--logs", type=Path, default=Path("logs"), metavar="DIR", help="TensorBoard logs (default logs)")
    train.set_defaults(run=_train)
    download = verbs.add_parser(
        "download",
        help="fetch PhotoTour patches",
        description=_DOWNLOAD_HELP,
        epilog=_DOWNLOAD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    download.add_argument("names", nargs="+", choices=("liberty", "notredame", "yosemite"), metavar="NAME")
    download.add_argument("-o", "--output", type=Path, default=Path("data/patches"), help="default data/patches")
    download.set_defaults(run=_download)


def _train(arguments: argparse.Namespace) -> int:
    from hardnet.training.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set)
    if arguments.steps < 0:
        raise TrainingError(f"--steps {arguments.steps}: expected a number from 1 (or 0 for all)")
    from hardnet.descriptors.loading import choose_device
    from hardnet.training.loop import train
    from hardnet.training.team import SharedError, leads, leads_machine

    try:
        choose_device(arguments.device)
    except ValueError as error:
        raise TrainingError(f"--device: {error}") from error
    logging.basicConfig(level=logging.INFO if leads() else logging.WARNING, format="%(message)s")
    try:
        outcome = train(recipe, arguments.folder, arguments.device, arguments.logs, arguments.steps)
    except SharedError:
        if leads_machine():
            raise
        return 2
    except KeyboardInterrupt:
        if leads_machine():
            print("\nstopped: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    if not leads():
        return 0
    if math.isnan(outcome.loss):
        print(f"step {outcome.step} of {outcome.steps}: nothing was left to do; {outcome.weights} holds the weights")
        return 0
    measured = "" if outcome.validation is None else f", validation FPR95 {100 * outcome.validation:.2f} %"
    print(f"step {outcome.step} of {outcome.steps}: loss {outcome.loss:.4f}{measured}")
    if outcome.weights is None:
        print(f"{outcome.checkpoint} holds the state; the same command goes on")
    elif recipe.network == "affnet":
        chosen = f"--set detector.shape=affnet --set detector.shape_weights={outcome.weights}"
        print(f"{outcome.weights} holds the weights: retrieval index ... {chosen}")
    else:
        print(f"{outcome.weights} holds the weights: hardnet describe ... --descriptor {outcome.weights}")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from hardnet.patchsets.phototour import download_phototour

    for name in arguments.names:
        print(download_phototour(name, arguments.output))
    return 0
