"""Which runs a figure compares: that they differ in what it says and in nothing else, that figures share runs, and what parameters do to them."""

import re
from dataclasses import fields, is_dataclass

import pytest

from paper_lib import data
from paper_lib.data.generators.photos import PHOTOGRAPHS
from paper_lib.metrics import frechet
from paper_lib.models import VARIANTS
from paper_lib.paper import figures, parameters, profiles, styles
from paper_lib.paper.figures import NOTEBOOKS
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import with_needs


def needs(config):
    """The runs that a run builds on, directly or not."""
    return with_needs(config.needs())


SETTINGS = {name: parameters.check(name) for name in PROFILES}
SMALL = [name for name in PROFILES if name != "paper"]
every_profile = pytest.mark.parametrize("profile", PROFILES)
every_small_profile = pytest.mark.parametrize("profile", SMALL)

TRICKS = {
    "lr decay": ("training.lr_decay_epochs", None),
    "clipping": ("training.clip", None),
    "warm-up": ("training.warmup_steps", 0),
}
WITHIN = {path for path, _ in TRICKS.values()}


def flat(config, path=""):
    """Every number of a config, and of the configs in it, by dotted name."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        values |= flat(value, f"{path}{f.name}.") if is_dataclass(value) else {path + f.name: value}
    return values


def differ(a, b):
    """Dotted names of what two configs differ in."""
    a, b = flat(a), flat(b)
    return {name for name in {*a, *b} if a.get(name, "absent") != b.get(name, "absent")}


def by_seed(configs):
    assert len({config.seed for config in configs}) == len(configs)
    return {config.seed: config for config in configs}


def paired(a, b):
    """Pairs of runs of the same seed."""
    a, b = by_seed(a), by_seed(b)
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    assert pairs
    return pairs


LOCATELLO = ("fig07_property_prediction", "fig08_segmentation_masks")


def slates(setting, notebooks=tuple(name for name in NOTEBOOKS if name not in LOCATELLO)):
    return {
        config: None
        for name in notebooks
        for config in figures.runs_of(name, setting)
        if config.kind == "slate"
    }


# ---------------------------------------------------------------- what figures compare


@every_profile
def test_pairs_differ_in_nothing_but_the_variant(profile):
    setting = SETTINGS[profile]
    groups = [
        figures.vanilla_and_implicit(setting),
        *figures.solvers(setting).values(),
        *figures.gradient_norms(setting).values(),
    ]
    for of in (figures.tricks, figures.iterations, figures.generalisation):
        by_rest = {}
        for (first, second), configs in of(setting).items():
            method, rest = (second, first) if of is figures.generalisation else (first, second)
            by_rest.setdefault(rest, {})[method] = configs
        groups += by_rest.values()
    assert len(groups) > 10
    for group in groups:
        assert {"vanilla", "IN"} <= set(group)
        for method, configs in group.items():
            assert {config.model.variant for config in configs} == {method}
            for config, implicit in paired(configs, group["IN"]):
                allowed = (
                    {"training.steps"} if config.model.num_iterations == 1 else set()
                )  # checked below
                assert differ(config, implicit) - allowed == (
                    {"model.variant"} if method != "IN" else set()
                )


@every_profile
def test_each_removal_removes_one_trick(profile):
    setting = SETTINGS[profile]
    groups = figures.tricks(setting)
    assert set(groups) == {
        (method, what) for method in ("vanilla", "IN") for what in ("nothing", *TRICKS)
    }
    for (method, what), configs in groups.items():
        whole = groups[method, "nothing"]
        assert (
            [config.seed for config in configs]
            == [config.seed for config in whole]
            == list(setting.swept_seeds)
        )
        for config, other in zip(configs, whole):
            t = config.training
            assert config.model.variant == method
            if what == "nothing":
                assert t.lr_decay_epochs and t.clip and 0 < t.warmup_steps < t.steps
            else:
                path, off = TRICKS[what]
                assert differ(config, other) == {path} and flat(config)[path] == off


@every_profile
def test_runs_with_the_tricks_and_without_differ_in_the_tricks(profile):
    setting = SETTINGS[profile]
    solvers, tricks, pair = (
        figures.solvers(setting),
        figures.tricks(setting),
        figures.vanilla_and_implicit(setting),
    )
    assert (
        solvers["with all tricks"]["IN"] == tricks["IN", "nothing"]
        and solvers["with all tricks"]["vanilla"] == tricks["vanilla", "nothing"]
    )
    if profile == "paper":
        assert (
            set(solvers) == {"with all tricks"} and solvers["with all tricks"]["IN"] == pair["IN"]
        ), "the paper trains with them"
        return
    assert solvers["without the tricks"]["IN"] == pair["IN"]
    for method, configs in solvers["with all tricks"].items():
        for config, plain in paired(configs, solvers["without the tricks"][method]):
            assert WITHIN <= differ(config, plain) <= WITHIN | {"training.steps"}
            assert (
                plain.training.clip,
                plain.training.lr_decay_epochs,
                plain.training.warmup_steps,
            ) == (None, None, 0)


def test_the_tricks_are_the_papers():
    papers = figures.tricks(SETTINGS["paper"])["IN", "nothing"][0].training
    assert (papers.steps, papers.warmup_steps, papers.clip, papers.lr_decay_epochs) == (
        250_000,
        30_000,
        1.0,
        4,
    )
    ours = figures.tricks(SETTINGS["cpu"])["IN", "nothing"][0].training
    assert (
        ours.warmup_steps / ours.steps == papers.warmup_steps / papers.steps
        and ours.clip == papers.clip
    )


@every_profile
def test_solvers(profile):
    setting = SETTINGS[profile]
    groups, pair = figures.solvers(setting), figures.vanilla_and_implicit(setting)
    everything = next(iter(groups.values()))
    assert set(everything) == set(VARIANTS), (
        "Table 2, and Anderson's solver in both places and forward alone"
    )
    assert {"vanilla", "IB", "BB", "IN", "BN"} <= set(groups["with all tricks"])
    assert (everything["vanilla"], everything["IN"]) == (pair["vanilla"], pair["IN"])
    for name in set(everything) - {"vanilla", "IN"}:
        assert [config.seed for config in everything[name]] == list(setting.swept_seeds)


@every_profile
def test_the_cost_is_measured_at_the_sizes_of_the_runs(profile):
    setting = SETTINGS[profile]
    cost, run = figures.solver_cost(setting), figures.vanilla_and_implicit(setting)["IN"][0]
    assert (
        set(cost.variants) == set(VARIANTS)
        and cost.iterations == (run.model.num_iterations,)
        and cost.training_step == run.model
    )
    assert {path.split(".")[0] for path in differ(cost, profiles.complexity(setting))} == {
        "variants",
        "iterations",
        "training_step",
    }
    assert (cost.size, cost.tokens) == (run.model.slot_size, (run.model.image_size // 4) ** 2)
    if profile in ("cpu", "paper"):  # the scales whose numbers are looked at
        assert (cost.batch, cost.slots) == (run.training.batch_size, run.model.num_slots)


@every_profile
def test_iterations_differ_in_their_number_and_length(profile):
    setting = SETTINGS[profile]
    groups, pair = figures.iterations(setting), figures.vanilla_and_implicit(setting)
    counts = {n for _, n in groups}
    assert set(groups) == {(method, n) for method in pair for n in counts} and {1, 7} <= counts
    if profile in ("cpu", "paper"):
        assert counts == {1, 3, 5, 7, 11, 15}
    sweep = {
        config.training.steps
        for (method, n), group in groups.items()
        for config in group
        if n != 7 and (method, n) != ("vanilla", 1)
    }
    (length,) = sweep
    for (method, n), configs in groups.items():
        for config, usual in paired(configs, pair[method]):
            assert (config.model.variant, config.model.num_iterations) == (method, n)
            assert differ(config, usual) - {"training.steps"} == (
                {"model.num_iterations"} if n != 7 else set()
            )
            assert config.training.steps >= length, "so that all can be compared at that length"
    assert all(groups[method, 7] == pair[method] for method in pair)


@every_profile
def test_precisions_differ_in_the_precision(profile):
    setting = SETTINGS[profile]
    groups, pair = figures.precisions(setting), figures.vanilla_and_implicit(setting)
    assert list(groups) == [
        (method, precision) for method in ("vanilla", "IN") for precision in ("float32", "bfloat16")
    ]
    for method in pair:
        assert groups[method, "float32"] == pair[method]
        for half, single in paired(groups[method, "bfloat16"], pair[method]):
            assert (
                differ(half, single) == {"training.precision"}
                and half.training.precision == "bfloat16"
            )


@every_profile
def test_one_iteration_beside_the_pair(profile):
    setting = SETTINGS[profile]
    groups, pair = figures.one_iteration(setting), figures.vanilla_and_implicit(setting)
    assert groups == {"vanilla, n = 1": figures.iterations(setting)["vanilla", 1], **pair}
    for one, usual in paired(groups["vanilla, n = 1"], pair["vanilla"]):
        assert differ(one, usual) == {"model.num_iterations"} and one.model.num_iterations == 1, (
            "as long as the pair, too"
        )
    assert all(name.split(",")[0] in styles.STYLES for name in groups)


@every_profile
def test_gradient_norms_are_of_runs_that_other_figures_show(profile):
    setting = SETTINGS[profile]
    groups, tricks = figures.gradient_norms(setting), figures.tricks(setting)
    assert groups["clipping"] == {
        method: tricks[method, "clipping"] for method in ("vanilla", "IN")
    }
    assert all(
        config.training.clip is None
        for group in groups.values()
        for configs in group.values()
        for config in configs
    ), "or nothing could be seen"
    shown = slates(setting, ["fig05_optimization_tricks", "fig01_overview"])
    assert set(slates(setting, ["fig06a_gradient_norms"])) <= set(shown)


@every_profile
def test_the_set_predictors_differ_in_method_and_iterations(profile):
    setting = SETTINGS[profile]
    groups = figures.property_prediction(setting)
    assert (
        set(groups) >= {("vanilla", 1), ("vanilla", 3), ("IN", 3), ("IN", 7)}
        and max(n for method, n in groups if method == "IN") > 7
    )
    for (method, n), configs in groups.items():
        assert [config.seed for config in configs] == list(setting.swept_seeds)
        for config, other in paired(configs, groups["IN", 3]):
            assert (config.model.variant, config.model.num_iterations) == (method, n)
            assert differ(config, other) <= {"model.variant", "model.num_iterations"}
            assert (
                config.training.clip is None and config.model.num_slots >= config.data.max_objects
            )


@every_profile
def test_the_autoencoders_differ_in_method_alone(profile):
    setting = SETTINGS[profile]
    groups = figures.segmentation(setting)
    for config, other in paired(groups["vanilla"], groups["IN"]):
        assert differ(config, other) == {"model.variant"} and config.training.clip is None
        assert differ(config.crowded, config.data) <= {"num_scenes", "min_objects", "max_objects"}
        assert config.crowded.min_objects > config.data.max_objects, (
            "more than any scene it is trained on"
        )
        assert config.model.num_slots > config.data.max_objects, "one for the background"


def test_crowded_scenes_follow_the_overrides():
    setting = parameters.check("smoke", overrides={"data.size": 32, "model.image_size": 32})
    (config,) = figures.segmentation(setting)["IN"]
    assert (
        config.crowded.size == config.data.size == 32
        and config.crowded.min_objects > config.data.max_objects
    )


@pytest.mark.parametrize("figure", [figures.property_prediction, figures.segmentation])
def test_what_these_figures_compare_is_not_overridden(figure):
    changed = parameters.check("smoke", overrides={"training.steps": 3})
    assert {config.training.steps for group in figure(changed).values() for config in group} == {3}
    if figure is figures.property_prediction:
        with pytest.raises(ValueError, match="model.num_iterations is what this figure compares"):
            figure(parameters.check("smoke", overrides={"model.num_iterations": 5}))


@pytest.mark.parametrize("profile", SMALL)
def test_a_caption_says_what_the_model_is_trained_on(profile):
    setting = SETTINGS[profile]
    words = setting.caption_of(*figures.segmentation(setting)["IN"])
    assert words.startswith(
        "Generated CLEVR scenes, not the authors' files."
    ) and "dVAE" not in words.replace(profiles.PROFILES[profile], "")
    if profile in ("quick", "cpu"):
        assert "dVAE" not in words and "smaller networks" in words


@every_profile
def test_figures_share_their_runs(profile):
    setting = SETTINGS[profile]
    named = {name: set(figures.runs_of(name, setting)) for name in NOTEBOOKS}
    assert named["fig12_13_no_clipping"] <= named["fig05_optimization_tricks"]
    assert named["fig04_qualitative"] == named["tab03_fid_mse"]
    assert {c for c in named["tab03_fid_mse"] if c.kind != "regeneration"} <= named[
        "sec53_validation_loss"
    ]
    for name in ("fig03a_residuals", "fig02_one_line", "fig09_10_decompositions"):
        assert named[name] <= named["fig01_overview"]
    for name in (
        "fig06c_one_iteration",
        "fig06b_iterations",
        "fig03b_solvers",
        "sec53_validation_loss",
    ):
        assert named["fig01_overview"] <= named[name]
    assert named["data_gallery"] == set()


# ---------------------------------------------------------------- data


@every_profile
def test_data_sets_differ_in_their_data_alone(profile):
    setting = SETTINGS[profile]
    groups, pair = figures.generalisation(setting), figures.vanilla_and_implicit(setting)
    third = "COCO-2017" if profile == "paper" else "photos"
    assert list(dict.fromkeys(name for name, _ in groups)) == ["CLEVR-Mirror", "ShapeStacks", third]
    expected = {
        "CLEVR-Mirror": ("clevr_mirror", "generator"),
        "ShapeStacks": ("shapestacks", "generator"),
        "photos": ("photos", "generator"),
    }
    expected["COCO-2017"] = ("coco", "files")
    for (name, method), configs in groups.items():
        assert {(config.data.name, config.data.door) for config in configs} == {expected[name]}
        for config, clevr in paired(configs, pair[method]):
            changed = differ(config, clevr)
            assert {path.removeprefix("dvae.").split(".")[0] for path in changed} == (
                set() if name == "CLEVR-Mirror" else {"data"}
            )
            assert not {"data.size", "data.num_scenes", "data.seed"} & changed
    assert {config.data.name for config in slates(setting)} == {
        expected[name][0] for name, _ in groups
    }


def test_the_papers_data_sets():
    """Sec. 5.3 at 64x64 and at 96x96; Table 3 and Figure 4 at 96x96, all test images, with the network of FID."""
    setting = SETTINGS["paper"]
    small, large = (figures.generalisation(setting, size) for size in (64, 96))
    assert figures.resolutions(setting) == (64, 96)
    for key, configs in small.items():
        for config, larger in paired(configs, large[key]):
            assert differ(config, larger) == {"data.size", "model.image_size"} and (
                config.data.size,
                larger.data.size,
            ) == (64, 96)
    shown = set(slates(setting, ["sec53_validation_loss"]))
    assert shown == {
        config for groups in (small, large) for configs in groups.values() for config in configs
    }
    scored = figures.regeneration(setting)
    assert {key: [run.slate for run in group] for key, group in scored.items()} == large
    assert {(run.features, run.images) for group in scored.values() for run in group} == {
        ("inception", None)
    }
    assert all(len(group) == 4 for groups in (small, large) for group in groups.values()), "seeds"


@every_small_profile
def test_the_small_scales_data_sets(profile):
    """What generators can make, at one size; the stand-in network, whose distances are not FID."""
    setting = SETTINGS[profile]
    (size,) = figures.resolutions(setting)
    groups, scored = figures.generalisation(setting), figures.regeneration(setting)
    assert {config.data.size for config in slates(setting)} == {
        size
    } and groups == figures.generalisation(setting, size)
    for config in slates(setting):
        assert (
            config.data.door == "generator"
            and data.which_door(config.data.name, "generator") == "generator"
        )
    assert {key: [run.slate for run in group] for key, group in scored.items()} == groups
    assert {run.features for group in scored.values() for run in group} == {"efficientnet-lite0"}
    other = figures.regeneration(setting, "inception")
    assert all(
        differ(a, b) == {"features"} and a.features == "inception"
        for key in scored
        for a, b in paired(other[key], scored[key])
    )
    if profile == "cpu":
        (images,) = {run.images for group in scored.values() for run in group}
        assert images > frechet.NETWORKS["efficientnet-lite0"].dimension, (
            "a covariance takes more images than features"
        )


@every_profile
def test_models_fit_their_data_and_their_dvae(profile):
    setting = SETTINGS[profile]
    configs = slates(setting)
    assert len(configs) > 20
    for config in configs:
        assert config.model.image_size == config.data.size
        assert (config.dvae is None) == (profile == "paper")
        if config.dvae:
            assert (
                config.dvae.data == config.data
                and config.dvae.vocab_size == config.model.vocab_size
            )
    # on one data set all share one, so that they see the same tokens
    dvaes = {config.dvae for config in configs}
    assert len(dvaes) == (1 if profile == "paper" else 3)


# ---------------------------------------------------------------- what builds on what


def prerequisites(config):
    """What must be there before a config can be run, as its kind says."""
    if config.kind == "regeneration":
        return {config.slate} | prerequisites(config.slate)
    return {config.dvae} - {None} if config.kind == "slate" else set()


@every_profile
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_what_is_needed_comes_first_and_once(notebook, profile):
    setting = SETTINGS[profile]
    listed, shown = (
        figures.runs_of(notebook, setting),
        [config for group in NOTEBOOKS[notebook](setting).values() for config in group],
    )
    assert len(set(listed)) == len(listed)
    for k, config in enumerate(listed):
        assert prerequisites(config) <= set(listed[:k])
    assert set(listed) == set(shown).union(*map(prerequisites, shown))


def test_needs():
    setting = SETTINGS["smoke"]
    scored = figures.regeneration(setting)["ShapeStacks", "IN"][0]
    assert (
        needs(scored) == [scored.slate.dvae, scored.slate]
        and scored.slate.dvae.data.name == "shapestacks"
    )
    assert needs(scored.slate) == [scored.slate.dvae] and needs(scored.slate.dvae) == []
    assert needs(profiles.complexity(setting)) == needs(figures.solver_cost(setting)) == []
    joint = figures.regeneration(SETTINGS["paper"])["ShapeStacks", "IN"][0]
    assert needs(joint) == [joint.slate] and needs(joint.slate) == []


# ---------------------------------------------------------------- parameters


def trained(group):
    return [config for config in group if config.kind != "complexity"]


@every_profile
def test_given_seeds_are_those_of_every_run(profile):
    for seeds, expected in (([4, 1], (4, 1)), (7, (7,)), ((0,), (0,))):
        setting = parameters.check(profile, seeds)
        assert setting.seeds == setting.swept_seeds == expected
        for notebook in NOTEBOOKS.values():
            for group in notebook(setting).values():
                assert not trained(group) or tuple(config.seed for config in group) == expected


@every_profile
def test_the_profiles_own_seeds(profile):
    """At the cpu scale three for the pair that most figures compare, also in bfloat16, one for the rest; elsewhere as many for all."""
    setting = SETTINGS[profile]
    expected = {"cpu": ((0, 1, 2), (0,)), "paper": ((0, 1, 2, 3),) * 2}.get(profile, ((0,),) * 2)
    assert (setting.seeds, setting.swept_seeds) == expected
    pair = [config for group in figures.vanilla_and_implicit(setting).values() for config in group]
    half = [
        config
        for (_, precision), group in figures.precisions(setting).items()
        for config in group
        if precision == "bfloat16"
    ]
    seen = set()
    for notebook in NOTEBOOKS.values():
        for group in map(trained, notebook(setting).values()):
            if group:
                of_the_pair = all(
                    getattr(config, "slate", config) in pair or config in half for config in group
                )
                seeds = tuple(config.seed for config in group)
                assert seeds == (expected[0] if of_the_pair else expected[1])
                seen.add(seeds)
    assert seen == set(expected)


COMPARED = [
    (figures.tricks, "training.clip", 0.5),
    (figures.tricks, "training.lr_decay_epochs", 2),
    (figures.tricks, "training.warmup_steps", 3),
    (figures.gradient_norms, "training.clip", None),
    (figures.iterations, "model.num_iterations", 3),
    (figures.one_iteration, "model.num_iterations", 7),
    (figures.generalisation, "data.name", "shapestacks"),
    (figures.regeneration, "data.name", "shapestacks"),
]


@pytest.mark.parametrize("profile", ["smoke", "paper"])
@pytest.mark.parametrize("groups, path, value", COMPARED)
def test_what_a_figure_compares_cannot_be_overridden(groups, path, value, profile):
    setting = parameters.check(profile, overrides={path: value})
    with pytest.raises(
        ValueError, match=f"overrides: {re.escape(path)} is what this figure compares"
    ):
        groups(setting)
    for config in figures.vanilla_and_implicit(setting)["IN"]:
        assert flat(config)[path] == value, "of figures that do not compare it"


def test_several_are_all_named_and_sizes_are_compared_at_the_papers_scale():
    with pytest.raises(ValueError, match=r"training\.clip and training\.warmup_steps is"):
        figures.tricks(
            parameters.check(
                "smoke", overrides={"training.warmup_steps": 1, "lr": 1.0, "training.clip": 2.0}
            )
        )
    setting = parameters.check("paper", overrides={"data.size": 32, "model.image_size": 32})
    with pytest.raises(ValueError, match=r"data\.size and model\.image_size"):
        figures.runs_of("sec53_validation_loss", setting)
    with pytest.raises(ValueError, match="clip"):
        figures.solvers(parameters.check("smoke", overrides={"training.clip": 0.5}))


@every_profile
def test_an_overridden_number_of_steps_is_that_of_every_run(profile):
    setting = parameters.check(profile, overrides={"training.steps": 4, "model.num_slots": 2})
    configs = slates(setting)
    assert len(configs) > 20 and {(c.training.steps, c.model.num_slots) for c in configs} == {
        (4, 2)
    }
    assert {c.dvae for c in configs} == {c.dvae for c in slates(SETTINGS[profile])}, (
        "the dVAE's training is not the runs'"
    )


@every_small_profile
def test_an_overridden_data_set_reaches_the_dvaes(profile):
    setting = parameters.check(
        profile, overrides={"data.num_scenes": 61, "model.vocab_size": 20, "data.seed": 5}
    )
    for config in slates(setting):
        for part in (config, config.dvae):
            assert (part.data.num_scenes, part.data.seed) == (61, 5)
        assert (
            config.model.vocab_size == config.dvae.vocab_size == 20
            and config.dvae.data == config.data
        )


@every_profile
def test_steps_are_the_profiles_unless_given_or_overridden(profile):
    setting = SETTINGS[profile]
    usual = profiles.slate(setting, "IN", 0)
    given = profiles.slate(setting, "IN", 0, steps=5)
    assert given.training.steps == 5 and differ(given, usual) == {"training.steps"}
    overridden = parameters.check(profile, overrides={"training.steps": 4})
    assert profiles.slate(overridden, "IN", 0, steps=5).training.steps == 4


def test_a_change_reaches_the_config_that_it_names():
    setting = SETTINGS["smoke"]
    changed = profiles.slate(setting, "BB", 3, model__num_iterations=2, lr=0.5)
    assert (changed.model.variant, changed.seed, changed.model.num_iterations, changed.lr) == (
        "BB",
        3,
        2,
        0.5,
    )
    assert differ(changed, profiles.slate(setting, "BB", 3)) == {"model.num_iterations", "lr"}
    with pytest.raises(ValueError, match="'model.iterations'.*num_iterations"):
        profiles.slate(setting, "IN", 0, model__iterations=2)


# ---------------------------------------------------------------- captions


def caption(setting, of):
    return setting.caption_of(*[config for group in of(setting).values() for config in group])


def test_a_caption_says_where_every_picture_comes_from():
    small = caption(SETTINGS["cpu"], figures.generalisation)
    for words in (
        "Generated CLEVR-Mirror scenes, not the authors' files.",
        "Generated ShapeStacks scenes, not the authors' files.",
        "in place of COCO",
    ):
        assert small.count(words) == 1, "once, however many runs"
    assert PROFILES["cpu"] in small and "COCO-2017" not in small
    papers = caption(SETTINGS["paper"], figures.generalisation)
    assert "COCO-2017, the authors' files." in papers and "photo" not in papers
    files = parameters.check("cpu", overrides={"data.door": "files", "data.name": "shapestacks"})
    assert (
        files.caption.startswith("ShapeStacks scenes, the authors' files.")
        and "Overridden: data.door = files, data.name = shapestacks." in files.caption
    )


@every_profile
def test_the_settings_own_caption_is_that_of_its_pair(profile):
    setting = SETTINGS[profile]
    assert (
        setting.caption == caption(setting, figures.vanilla_and_implicit)
        and "CLEVR-Mirror" in setting.caption
        and "Stacks" not in setting.caption
    )


@every_profile
def test_a_caption_says_how_long_its_own_runs_were_trained(profile):
    """The sweeps can be shorter than the pair, and a figure of both names both."""
    for of in (figures.vanilla_and_implicit, figures.tricks, figures.iterations):
        lengths = sorted(
            {config.training.steps for group in of(SETTINGS[profile]).values() for config in group}
        )
        words = {1: "{:,}", 2: "{:,} or {:,}"}[len(lengths)].format(*lengths)
        assert f". {words} training steps. Scale" in caption(SETTINGS[profile], of)
    if profile == "paper":
        assert lengths == [250_000]


def test_photographs_are_as_many_as_the_caption_says():
    train, validation, test = ([p.split for p in PHOTOGRAPHS].count(split) for split in data.SPLITS)
    words = f"Crops of {len(PHOTOGRAPHS)} photographs ({train} to train on, {validation} to validate, {test} to test)"
    assert words in caption(SETTINGS["cpu"], figures.generalisation)


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_the_authors_files_of_all_three_data_sets(profile):
    setting = parameters.check(profile, overrides={"data.door": "files"})
    assert list(profiles.data_sets(setting)) == ["CLEVR-Mirror", "ShapeStacks", "COCO-2017"]
    configs = [group[0] for group in figures.generalisation(setting).values()]
    assert {(c.data.name, c.data.door) for c in configs} == {
        (name, "files") for name in ("clevr_mirror", "shapestacks", "coco")
    }
    assert not set(profiles.data_sets(setting)) & set(profiles.STAND_INS)


def test_stand_ins_are_what_the_small_profiles_show_in_cocos_place():
    assert set(profiles.data_sets(parameters.check("cpu"))) - set(
        profiles.data_sets(parameters.check("paper"))
    ) == set(profiles.STAND_INS)


def test_another_size_is_the_one_resolution():
    setting = parameters.check("cpu", overrides={"data.size": 48, "model.image_size": 48})
    assert figures.resolutions(setting) == (48,)
    assert {
        (c.data.size, c.model.image_size)
        for (c, *_) in figures.generalisation(setting, 48).values()
    } == {(48, 48)}
