"""The verbs `hardnet describe` (a file of patches to a file of descriptors) and `hardnet export`."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from hardnet import progress
from hardnet.descriptors.descriptor import PatchDescriptor
from hardnet.descriptors.loading import PRECISIONS, load
from hardnet.errors import HardnetError, PrecisionError
from hardnet.files import replacing
from hardnet.patchsets.hpatches import read_strip
from hardnet.patchsets.resize import resize_patches

SEPARATORS = {".txt": " ", ".csv": ","}
SUFFIXES = (".npy", *SEPARATORS)

_DIGITS = "%.9g"  # as many as it takes to read every float32 back exactly
_TOGETHER = 1024  # patches resized at once and per step of the progress bar: 4 MB at 32 x 32

_DESCRIBE_HELP = """\
Describes the patches of a file in HPatches format: a grey PNG, as wide as a patch and n patches high.
Patches of any width are resized to what the descriptor takes. OUT gets one row a patch:
  .npy   float32 (n, 128)
  .csv   commas, as the HPatches benchmark reads them
  .txt   blanks
An existing OUT is replaced, once the new one is complete."""

_DESCRIBE_EXAMPLES = """\
examples:
  hardnet describe ref.png ref.npy
  hardnet describe ref.png ref.csv --descriptor rootsift
  hardnet describe ref.png ref.txt --descriptor mine.safetensors --device cpu --precision float32
  hardnet describe ref.png ref.npy --onnx hardnet.onnx"""

_EXPORT_HELP = """\
Writes a network as an ONNX file for other runtimes: input `patches` float32 (N, 1, 32, 32), grey values 0..255,
output `descriptors` float32 (N, 128), unit rows, for any N. What ONNX Runtime makes of the file is compared with
torch before the file appears. Needs: pip install 'hardnet-retrieval[onnx]'"""

_EXPORT_EXAMPLES = """\
examples:
  hardnet export --onnx hardnet.onnx
  hardnet export hardnet++ --onnx hardnet++.onnx
  hardnet export mine.safetensors --onnx mine.onnx"""


def describe_file(patches: Path, output: Path, descriptor: PatchDescriptor) -> int:
    """Describes the patches of an HPatches-format file.

    Args:
        patches: PNG file, n patches of W x W one above the other.
        output: a file with one of `SUFFIXES`, for n rows of `descriptor.dimensions`; replaced if it exists.
        descriptor: gets the patches resized to its `patch_size`.

    Returns:
        The number of patches.

    Raises:
        HardnetError: the patches cannot be read (`PatchSetError`), or the output has another suffix or cannot be
            written.
    """
    check_output(output)
    with replacing(output) as temporary:
        strip = read_strip(patches)
        rows = np.empty((len(strip), descriptor.dimensions), np.float32)
        with progress.bar(total=len(strip), desc=patches.name, unit="patch") as bar:
            for start in range(0, len(strip), _TOGETHER):
                part = resize_patches(strip[start : start + _TOGETHER], descriptor.patch_size)
                rows[start : start + len(part)] = descriptor.describe(part)
                bar.update(len(part))
        with temporary.open("wb") as stream:
            if output.suffix == ".npy":
                np.save(stream, rows, allow_pickle=False)
            else:
                np.savetxt(stream, rows, fmt=_DIGITS, delimiter=SEPARATORS[output.suffix])
    return len(rows)


def check_output(output: Path) -> None:
    """Refuses an output that descriptors cannot be written to, before anything is loaded.

    Raises:
        HardnetError: none of `SUFFIXES`.
    """
    if output.suffix not in SUFFIXES:
        raise HardnetError(f"{output} has an unknown suffix; descriptors are written as {', '.join(SUFFIXES)}")


def add_parser(verbs: Any) -> None:
    """Adds `describe` and `export` to the verbs of the command line."""
    describe = verbs.add_parser(
        "describe",
        help="describe a file of patches",
        description=_DESCRIBE_HELP,
        epilog=_DESCRIBE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    describe.add_argument("patches", type=Path, metavar="PATCHES.png", help="patches one above the other")
    describe.add_argument("output", type=Path, metavar="OUT", help=f"file for the rows: {', '.join(SUFFIXES)}")
    source = describe.add_mutually_exclusive_group()
    source.add_argument(
        "--descriptor",
        default="hardnet",
        metavar="NAME_OR_PATH",
        help="a name that `hardnet weights` lists, or a weights file (default: %(default)s)",
    )
    source.add_argument("--onnx", type=Path, metavar="FILE", help="describe with an exported network instead")
    describe.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:<n> (default: %(default)s: a GPU if there is one)"
    )
    describe.add_argument(
        "--batch-size", type=_positive, default=512, metavar="N", help="patches at once (default: %(default)s)"
    )
    describe.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="int8 is faster, on processors with VNNI, and float16 on a GPU (default: %(default)s: the one that runs, "
        "else float32)",
    )
    describe.set_defaults(run=_describe)

    export = verbs.add_parser(
        "export",
        help="write a network as an ONNX file",
        description=_EXPORT_HELP,
        epilog=_EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument(
        "descriptor",
        nargs="?",
        default="hardnet",
        metavar="NAME_OR_PATH",
        help="a name that `hardnet weights` lists, or a weights file (default: %(default)s)",
    )
    export.add_argument(
        "--onnx", type=Path, required=True, metavar="FILE", help="the .onnx file to write; replaced if it exists"
    )
    export.set_defaults(run=_export)


def _describe(arguments: argparse.Namespace) -> int:
    check_output(arguments.output)
    try:
        if arguments.onnx is None:
            descriptor = load(arguments.descriptor, arguments.device, arguments.batch_size, arguments.precision)
        else:
            from hardnet.descriptors.onnx import OnnxDescriptor

            if arguments.precision in ("int8", "float16"):
                raise PrecisionError(f"{arguments.onnx} runs as it is: leave --precision out")
            descriptor = OnnxDescriptor(arguments.onnx, arguments.device, arguments.batch_size)
    except ValueError as error:  # the device
        raise HardnetError(str(error)) from error
    count = describe_file(arguments.patches, arguments.output, descriptor)
    how = "" if descriptor.precision == "float32" else f" in {descriptor.precision}"
    print(f"{arguments.output}: {count} patches described by {descriptor.name}{how}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from hardnet.descriptors.onnx import export_network

    difference = export_network(arguments.descriptor, arguments.onnx)
    print(f"{arguments.onnx}: {arguments.descriptor}, entries differ from torch's by at most {difference:.1e}")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number
