"""The settings of a training run: which patches, which views, which schedule.

The defaults are those of the released HardNet code (Mishchuk et al. 2017); configs/hardnet/ holds whole recipes.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardnet import settings as settings_module
from hardnet.errors import TrainingError
from hardnet.settings import at_least, one_of
from hardnet.training.deformation import ShapeSettings
from hardnet.training.views import ViewSettings

# in a wheel, in a checkout
_SHIPPED = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs" / "hardnet")
KINDS = ("arrays", "phototour", "hpatches")
OPTIMISERS = ("sgd", "adam")
PRECISIONS = ("auto", "single", "bfloat16")
COLLAPSE = 0.01  # learning rate of stochastic gradient descent from which on AffNet's shapes all became one


@dataclass(frozen=True)
class SetSettings:
    """One source of patches."""

    path: str | tuple[str, ...]  # folder, or the folders that are one set's shards; relative to where the command runs
    kind: str = "arrays"  # "arrays" | "phototour" | "hpatches"
    share: float | None = None  # of every batch; null for all sets: the sets' shares of all points
    sequences: tuple[str, ...] = ()  # of an HPatches folder; none named: all

    def __post_init__(self) -> None:
        one_of("sets.kind", self.kind, KINDS)
        _one_folder("sets.path", self.kind, self.path)
        if self.share is not None and not 0 < self.share <= 1:
            raise settings_module.SettingsError(f"sets.share: expected a number above 0 up to 1, got {self.share!r}")


@dataclass(frozen=True)
class PhaseSettings:
    """A stretch of the run with one batch size, one straight line of learning rates and one kind of views."""

    pairs: int = 50_000_000  # 10 epochs of 5,000,000 pairs (released code)
    batch: int = 1024  # pairs per step (released code)
    learning_rate: float = 10.0  # at its beginning; with dampening 0.9 equal to 1 without (released code)
    final_learning_rate: float = 0.0  # reached after its last step
    views: ViewSettings = field(default_factory=ViewSettings)

    def __post_init__(self) -> None:
        at_least("phases.batch", self.batch, 2)
        at_least("phases.pairs", self.pairs, self.batch)
        at_least("phases.learning_rate", self.learning_rate, 0)
        at_least("phases.final_learning_rate", self.final_learning_rate, 0)

    @property
    def steps(self) -> int:
        """Whole batches in it."""
        return self.pairs // self.batch


@dataclass(frozen=True)
class OptimiserSettings:
    """How gradients become steps."""

    kind: str = "sgd"  # stochastic gradient descent, or "adam" (Kingma and Ba 2015)
    momentum: float = 0.9  # released code; of adam the decay of mean gradients
    dampening: float = 0.9  # released code: the buffer averages gradients instead of adding them up; not of adam
    weight_decay: float = 1e-4  # released code

    def __post_init__(self) -> None:
        one_of("optimiser.kind", self.kind, OPTIMISERS)
        for key, value in (("momentum", self.momentum), ("dampening", self.dampening)):
            if not 0 <= value < 1:
                raise settings_module.SettingsError(f"optimiser.{key}: expected 0 to below 1, got {value!r}")
        at_least("optimiser.weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class LossSettings:
    """The loss is the sum of its parts, each times its weight."""

    triplet: float = 1.0  # the hardest in batch (Mishchuk et al. 2017)
    regression: float = 0.0  # 1 - cosine to the teacher's descriptor of the same view

    def __post_init__(self) -> None:
        at_least("losses.triplet", self.triplet, 0)
        at_least("losses.regression", self.regression, 0)


@dataclass(frozen=True)
class ValidationSettings:
    """Pairs that tell how the run goes; their patches must not be trained on."""

    path: str | tuple[str, ...] = ""  # folder, or folders; empty: no validation
    kind: str = "arrays"
    sequences: tuple[str, ...] = ()
    pairs: int = 10_000  # drawn with the seed, half of them matching
    every: int = 1000  # steps

    def __post_init__(self) -> None:
        one_of("validation.kind", self.kind, KINDS)
        _one_folder("validation.path", self.kind, self.path)
        at_least("validation.pairs", self.pairs, 100)
        at_least("validation.every", self.every, 1)


@dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    name: str = "hardnet"  # of the run: folder of logs, weights file
    sets: tuple[SetSettings, ...] = ()
    phases: tuple[PhaseSettings, ...] = (PhaseSettings(),)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    network: str = "hardnet"  # or "compact-<width>", such as compact-32: the layers of DesDis; or "affnet": shapes
    dropout: float = 0.3  # released code; the text says 0.1
    start: str = ""  # weights of such a network to begin with, a name or a path; empty: orthogonal filters
    gain: float = 0.6  # of the orthogonal initialisation (released code)
    margin: float = 1.0  # of the triplets
    teacher: str = ""  # weights of the network whose descriptors are learned, too, a name or a path; empty: none
    losses: LossSettings = field(default_factory=LossSettings)
    averaging: float = 0.0  # decay per step of an exponential average of the weights; 0: the last weights count
    precision: str = "auto"  # bfloat16 where a GPU computes it, else single; or "single" | "bfloat16"
    checkpoint_every: int = 500  # steps
    seed: int = 0
    shapes: ShapeSettings = field(default_factory=ShapeSettings)  # of affnet alone, which takes adam (affnet.yaml)

    def __post_init__(self) -> None:
        one_of("precision", self.precision, PRECISIONS)
        at_least("checkpoint_every", self.checkpoint_every, 1)
        at_least("seed", self.seed, 0)
        at_least("margin", self.margin, 0)
        at_least("gain", self.gain, 1e-3)
        if not re.fullmatch("hardnet|affnet|compact-[1-9][0-9]{0,2}", self.network):
            raise settings_module.SettingsError(
                f"network: expected hardnet, affnet, or compact-<width> such as compact-32, got {self.network!r}"
            )
        if self.network != "affnet" and self.shapes != ShapeSettings():
            raise settings_module.SettingsError(f"shapes: those of network: affnet, not of {self.network}")
        if self.network == "affnet" and self.teacher:
            raise settings_module.SettingsError("teacher: affnet has none; shapes.descriptor is what it learns through")
        if bool(self.teacher) != (self.losses.regression > 0):
            raise settings_module.SettingsError(
                "a teacher and losses.regression, the weight of what it says, go together: give both or neither"
            )
        if not self.teacher and self.losses.triplet != 1:
            raise settings_module.SettingsError("losses.triplet: without a teacher it is 1; change the learning rate")
        if not self.phases:
            raise settings_module.SettingsError("phases: expected at least one")
        for key, value in (("dropout", self.dropout), ("averaging", self.averaging)):
            if not 0 <= value < 1:
                raise settings_module.SettingsError(f"{key}: expected a number from 0 to below 1, got {value!r}")
        if self.network == "affnet" and any(phase.views.moves for phase in self.phases):
            raise settings_module.SettingsError(
                "phases.views: affnet takes no rotation, shift, log_scale or anisotropy here; shapes.rotation and "
                "shapes.tilt say how patches are turned and deformed"
            )
        fastest = max((phase.learning_rate for phase in self.phases), default=0.0)
        if self.network == "affnet" and self.optimiser.kind == "sgd" and fastest >= COLLAPSE:
            raise settings_module.SettingsError(
                f"phases.learning_rate: with sgd and {COLLAPSE:g} or more affnet gives every patch one shape; set "
                "optimiser.kind=adam and 0.0003, as configs/hardnet/affnet.yaml"
            )
        if len({part.share is None for part in self.sets}) > 1:
            raise settings_module.SettingsError("sets.share: give a share to every set or to none")

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[PhaseSettings, int]:
        """The phase of a step, and the step's number within it.

        Args:
            step: from 0 to `steps` - 1.
        """
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError("the run has no such step")

    def learning_rate(self, step: int) -> float:
        """Linear in the pairs seen within the phase: lr0 (1 - step * batch / pairs) in the released code."""
        phase, within = self.phase_at(step)
        share = within * phase.batch / phase.pairs
        return phase.learning_rate + share * (phase.final_learning_rate - phase.learning_rate)


def load_recipe(path: str | Path | None, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies ``key.sub=value`` overrides (``phases.0.batch=256``).

    Args:
        path: YAML file, or None for the defaults; a string may also be the name of a shipped recipe, such as
            ``liberty`` (see `hardnet.settings.find`).
        overrides: the value of each is parsed as YAML.

    Raises:
        SettingsError: unreadable file, unknown key, wrong type, or a value outside its range.
    """
    if isinstance(path, str):
        path = settings_module.find(path, *_SHIPPED)
    recipe = settings_module.build(Recipe, settings_module.read_tree(path)) if path is not None else Recipe()
    tree = settings_module.to_tree(recipe)  # with the defaults, so that elements of default lists can be changed
    settings_module.override(tree, overrides)
    return settings_module.build(Recipe, tree)


def require_network(key: str, name_or_path: str) -> None:
    """Refuses what a recipe cannot learn from.

    Args:
        key: of the recipe.
        name_or_path: what stands there.

    Raises:
        TrainingError: RootSIFT, or an ONNX file.
    """
    if name_or_path == "rootsift" or Path(name_or_path).suffix == ".onnx":
        raise TrainingError(f"{key}: {name_or_path} is no network that torch runs; name the weights of one")


def deciding(recipe: Recipe) -> dict[str, Any]:
    """The settings that change the weights, as plain nested values.

    Left out: the name, how often is saved and validated, and where patches, first weights, teacher and the descriptor
    of shapes lie (a checkpoint knows what they are). Without a teacher, a HardNet's is that of versions which knew
    nothing else.
    """
    tree = settings_module.to_tree(recipe)
    for key in ("name", "checkpoint_every", "validation", "start", "teacher"):
        tree.pop(key)
    if not recipe.teacher:
        tree.pop("losses")
    for part in tree["sets"]:
        part.pop("path")
    tree["shapes"].pop("descriptor")
    if recipe.network != "affnet":
        tree.pop("shapes")
    if recipe.network == "hardnet":  # as before there was another
        tree.pop("network")
    tree["optimiser"].pop("kind" if recipe.optimiser.kind == "sgd" else "dampening")  # as before there was adam
    return tree


def fingerprint(recipe: Recipe) -> str:
    """Changes with every setting that changes the weights."""
    return hashlib.sha256(json.dumps(deciding(recipe), sort_keys=True).encode()).hexdigest()[:16]


def _one_folder(key: str, kind: str, path: str | tuple[str, ...]) -> None:
    if kind != "arrays" and not isinstance(path, str):
        raise settings_module.SettingsError(f"{key}: several folders are shards of a set of arrays, not of {kind}")
