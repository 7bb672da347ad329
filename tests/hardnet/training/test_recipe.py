from pathlib import Path

import pytest
from safetensors import safe_open

from hardnet.errors import SettingsError
from hardnet.settings import build, to_tree
from hardnet.training.deformation import ShapeSettings
from hardnet.training.recipe import LossSettings, OptimiserSettings, PhaseSettings, Recipe, fingerprint, load_recipe
from hardnet.weights import table

CONFIGS = Path(__file__).parents[3] / "configs" / "hardnet"


def test_a_recipe_survives_the_way_through_plain_values():
    recipe = Recipe(phases=(PhaseSettings(pairs=100, batch=10), PhaseSettings(pairs=90, batch=20)), seed=3)
    assert build(Recipe, to_tree(recipe)) == recipe


def test_phases_follow_each_other():
    recipe = Recipe(
        phases=(
            PhaseSettings(pairs=100, batch=10, learning_rate=4, final_learning_rate=2),
            PhaseSettings(pairs=90, batch=20, learning_rate=1),
        )
    )
    assert recipe.steps == 14
    rates = [recipe.learning_rate(step) for step in range(14)]
    assert rates[:2] == [4.0, 3.8]
    assert rates[9:12] == pytest.approx([2.2, 1.0, 1 - 20 / 90])
    with pytest.raises(ValueError, match="no such step"):
        recipe.learning_rate(14)


def test_overrides_reach_into_lists_and_into_defaults(tmp_path):
    assert load_recipe(None, ["phases.0.batch=64"]).phases[0].batch == 64
    path = tmp_path / "recipe.yaml"
    path.write_text("sets: [{path: a}, {path: b}]\n")
    assert load_recipe(path, ["sets.1.path=c"]).sets[1].path == "c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets: [{pth: a}]", r"unknown configuration key 'sets\.0\.pth'; the nearest known key is '.*path'"),
        ("sets: [{kind: arrays}]", r"sets\.0\.path is missing"),
        ("sets: {path: a}", "sets: expected tuple, got"),
        ("phases: []", "at least one"),
        ("phases: [{batch: 1}]", r"phases\.batch: expected at least 2"),
        ("precision: double", "expected one of auto, single, bfloat16"),
        ("dropout: 1.0", "dropout: expected a number from 0 to below 1"),
        ("phases: [{views: {occlusion: 7}}]", r"views\.occlusion: expected a probability"),
        ("phases: [{views: {blur: -3}}]", r"views\.blur: expected at least 0"),
        ("optimiser: {momentum: 5}", r"optimiser\.momentum: expected 0 to below 1"),
        ("margin: -2", "margin: expected at least 0"),
        ("network: affnet\nphases: [{views: {shift: 0.1}}]", r"phases\.views: affnet takes no rotation, shift"),
        ("network: affnet", r"learning_rate: with sgd and 0\.01 or more affnet gives every patch one shape"),
        ("shapes: {tilt: 2}", "shapes: those of network: affnet, not of hardnet"),
        ("optimiser: {kind: lion}", r"optimiser\.kind: expected one of sgd, adam"),
        ("shapes: {tilt: 0.5}", r"shapes\.tilt: expected at least 1"),
        ("shapes: {blur: 4}", r"shapes\.blur: expected 0\.5 to 2 pixels"),
        ("network: compact", "network: expected hardnet, affnet, or compact-<width> such as compact-32, got 'compact'"),
        ("network: compact-0", "network: expected hardnet"),
        ("network: l2net", "network: expected hardnet"),
        ("teacher: hardnet", r"a teacher and losses\.regression, .*, go together: give both or neither"),
        ("network: affnet\nteacher: hardnet\nlosses: {regression: 1.0}", "teacher: affnet has none"),
        ("losses: {regression: 1.0}", "give both or neither"),
        ("losses: {triplet: 0.5}", r"losses\.triplet: without a teacher it is 1"),
        ("losses: {regression: -1.0}", r"losses\.regression: expected at least 0"),
        ("phases: [{views: {flips: 1}}]", r"phases\.0\.views\.flips: expected bool, got 1"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases.1.batch=4", "'1' is not a place in a list of 1"),
        ("seed.x=4", "'seed' is not a section"),
        ("phases.0.batch", "expected key=value"),
    ],
)
def test_wrong_overrides_are_told(override, message):
    with pytest.raises(SettingsError, match=message):
        load_recipe(None, [override])


def test_the_fingerprint_follows_what_changes_the_weights():
    plain = Recipe()
    assert fingerprint(plain) == fingerprint(Recipe(name="other", checkpoint_every=7))
    assert fingerprint(plain) != fingerprint(Recipe(seed=1))
    assert fingerprint(plain) != fingerprint(Recipe(phases=(PhaseSettings(batch=512),)))
    taught = {"network": "affnet", "optimiser": OptimiserSettings("adam")}
    shapes = Recipe(**taught)
    assert fingerprint(shapes) != fingerprint(plain)
    assert fingerprint(shapes) == fingerprint(Recipe(**taught, shapes=ShapeSettings(descriptor="other.pth")))
    assert fingerprint(shapes) != fingerprint(Recipe(**taught, shapes=ShapeSettings(tilt=2)))
    assert fingerprint(shapes) == fingerprint(
        Recipe(network="affnet", optimiser=OptimiserSettings("adam", dampening=0.5))
    )


def test_fingerprints_of_earlier_versions_stay():
    """The bundled weights carry their recipe's; a checkpoint of an earlier version is taken up."""
    for name, recipe in (("hardnet", "open-4"), ("hardnet-small", "small-2")):
        with safe_open(table.location(name), framework="pt") as stream:
            assert fingerprint(load_recipe(recipe)) == stream.metadata()["recipe"]
    assert fingerprint(load_recipe("open-2")) == "5c1ce28be9750294"  # of the weights that were bundled before


def test_the_fingerprint_of_a_student_follows_network_and_weights_of_losses():
    student = Recipe(network="compact-32", teacher="hardnet", losses=LossSettings(regression=4.0))
    assert fingerprint(student) == fingerprint(
        Recipe(network="compact-32", teacher="moved.safetensors", losses=LossSettings(regression=4.0))
    )
    others = [
        Recipe(network="compact-32"),
        Recipe(network="compact-24", teacher="hardnet", losses=LossSettings(regression=4.0)),
        Recipe(network="compact-32", teacher="hardnet", losses=LossSettings(regression=2.0)),
        Recipe(network="compact-32", teacher="hardnet", losses=LossSettings(triplet=0.0, regression=4.0)),
    ]
    assert len({fingerprint(recipe) for recipe in [student, Recipe(), *others]}) == 6


def test_a_shipped_recipe_by_name():
    assert load_recipe("liberty") == load_recipe(CONFIGS / "liberty.yaml")
    shipped = "affnet, all, liberty, open-2, open-3, open-4, open, small-2, small"
    with pytest.raises(SettingsError, match=f"those are {shipped}"):
        load_recipe("freedom")
