"""Which runs a figure compares: that they differ in what it says and in nothing else, that figures
share runs, and what parameters do to them."""

import re
from dataclasses import fields, is_dataclass

import pytest

from paper_lib import data
from paper_lib.data.generators.photos import PHOTOGRAPHS
from paper_lib.fixed_point import Broyden
from paper_lib.metrics import frechet
from paper_lib.models import VARIANTS
from paper_lib.models.variants import solver_and_adjoint
from paper_lib.paper import captions, evidence, figures, parameters, profiles, styles
from paper_lib.paper.figures import NOTEBOOKS, every_config
from paper_lib.paper.profiles import PROFILES
from paper_lib.runs import with_needs

GIVEN = {name: parameters.check(name) for name in PROFILES}
SMALL = [name for name in PROFILES if name != "paper"]
TRICKED = ("gpu", "paper")  # whose usual runs are trained with all tricks
LOCATELLO = ("fig07_property_prediction", "fig08_segmentation_masks")
SLATES = tuple(name for name in NOTEBOOKS if name not in (*LOCATELLO, "claims"))
every_profile = pytest.mark.parametrize("profile", PROFILES)
every_small_profile = pytest.mark.parametrize("profile", SMALL)

# What each removal changes, and to what. The decay is by epochs, or by steps.
TRICKS = {
    "lr decay": ("training.lr_decay_epochs", None),
    "clipping": ("training.clip", None),
    "warm-up": ("training.warmup_steps", 0),
}
DECAY_BY_STEPS = ("training.decay_steps", None)
TRICK_NAMES = {path for path, _ in TRICKS.values()}


def flat(config, path=""):
    """Every value of a config, and of the configs in it, by dotted name."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            values |= flat(value, f"{path}{f.name}.")
        else:
            values[path + f.name] = value
    return values


def differ(a, b):
    """Dotted names of what two configs differ in."""
    a, b = flat(a), flat(b)
    return {name for name in {*a, *b} if a.get(name, "absent") != b.get(name, "absent")}


def by_seed(configs):
    found = {config.seed: config for config in configs}
    assert len(found) == len(configs)
    return found


def paired(a, b):
    """Pairs of runs of the same seed."""
    a, b = by_seed(a), by_seed(b)
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    assert pairs
    return pairs


def seeds_of(configs):
    return tuple(config.seed for config in configs)


def slates(given, notebooks=SLATES):
    """The SLATE runs of these notebooks, each once."""
    configs = [config for name in notebooks for config in figures.runs_of(name, given)]
    return list(dict.fromkeys(config for config in configs if config.kind == "slate"))


def lists(groups):
    """Every list of runs that a figure shows as one."""
    for group in groups.values():
        if isinstance(group, dict):
            yield from lists(group)
        else:
            yield group


# ---- what figures compare ----


def compared_methods(given):
    """Groups of runs that differ in their method: method -> runs."""
    groups = [
        figures.vanilla_and_implicit(given),
        *(group for how, group in figures.solvers(given).items() if "batch" not in how),
        *figures.gradient_norms(given).values(),
    ]
    by_rest = {}
    for (method, removed), configs in figures.tricks(given).items():
        by_rest.setdefault(removed, {})[method] = configs
    for (method, n), configs in figures.iterations(given).items():
        by_rest.setdefault(n, {})[method] = configs
    for (data_set, method), configs in figures.generalisation(given).items():
        by_rest.setdefault(data_set, {})[method] = configs
    return groups + list(by_rest.values())


@every_profile
def test_pairs_differ_in_nothing_but_the_variant(profile):
    groups = compared_methods(GIVEN[profile])
    assert len(groups) > 10
    for group in groups:
        assert {"vanilla", "IN"} <= set(group)
        for method, configs in group.items():
            assert {config.model.variant for config in configs} == {method}
            for config, implicit in paired(configs, group["IN"]):
                changed = differ(config, implicit)
                if config.model.num_iterations == 1:
                    changed -= {"training.steps"}  # checked below
                assert changed == ({"model.variant"} if method != "IN" else set())


@every_profile
def test_each_removal_removes_one_trick(profile):
    given = GIVEN[profile]
    groups = figures.tricks(given)
    removals = ("nothing", *TRICKS)
    assert set(groups) == {(method, what) for method in ("vanilla", "IN") for what in removals}
    for (method, what), configs in groups.items():
        whole = groups[method, "nothing"]
        assert seeds_of(configs) == seeds_of(whole) == given.seeds
        for config, other in zip(configs, whole):
            assert config.model.variant == method
            if what != "nothing":
                path, off = TRICKS[what]
                if what == "lr decay" and profile in ("cpu", "gpu"):
                    path, off = DECAY_BY_STEPS
                assert differ(config, other) == {path}
                assert flat(config)[path] == off


@every_profile
def test_where_nothing_is_removed_every_trick_is_on(profile):
    groups = figures.tricks(GIVEN[profile])
    for config in groups["vanilla", "nothing"] + groups["IN", "nothing"]:
        training = config.training
        assert bool(training.lr_decay_epochs) != bool(training.decay_steps)
        assert training.clip
        assert 0 < training.warmup_steps < training.steps


@pytest.mark.parametrize("profile", ["smoke", "quick"])
def test_runs_with_the_tricks_and_without_differ_in_the_tricks(profile):
    given = GIVEN[profile]
    solvers, tricks = figures.solvers(given), figures.tricks(given)
    tricked, plain = solvers["with all tricks"], solvers["without the tricks"]
    assert plain["IN"] == figures.pair(given, None)["IN"]
    for method in ("vanilla", "IN"):
        assert tricked[method] == tricks[method, "nothing"]
    for method, configs in tricked.items():
        for config, other in paired(configs, plain[method]):
            changed = differ(config, other)
            assert TRICK_NAMES <= changed <= TRICK_NAMES | {"training.steps"}
            for path, off in TRICKS.values():
                assert flat(other)[path] == off


@pytest.mark.parametrize("profile", TRICKED)
def test_the_paper_trains_with_the_tricks(profile):
    given = GIVEN[profile]
    solvers, tricks = figures.solvers(given), figures.tricks(given)
    assert set(solvers) == {"with all tricks"}
    for method, configs in figures.vanilla_and_implicit(given).items():
        assert solvers["with all tricks"][method] == configs == tricks[method, "nothing"]


def test_the_tricks_are_the_papers():
    papers = figures.tricks(GIVEN["paper"])["IN", "nothing"][0].training
    assert papers.steps == 250_000
    assert papers.warmup_steps == 30_000
    assert papers.clip == 1.0
    assert papers.lr_decay_epochs == 4
    for ours in (figures.tricks(GIVEN["gpu"]), figures.tricks(GIVEN["cpu"])):
        assert ours["IN", "nothing"][0].training.clip == papers.clip
        assert ours["IN", "nothing"][0].training.warmup_steps > 0


@every_profile
def test_solvers(profile):
    """Table 2, and where no results are committed Anderson's in both places and forward alone."""
    given = GIVEN[profile]
    groups, pair = figures.solvers(given), figures.pair(given, figures.SOLVERS_SCALE)
    everything = next(iter(groups.values()))
    assert set(everything) == solved(profile)
    assert {"vanilla", "IB", "BB", "IN", "BN"} <= set(groups["with all tricks"])
    for name, configs in everything.items():
        if name in pair:
            assert configs == pair[name]
        else:
            assert seeds_of(configs) == given.seeds


def solved(profile):
    """The variants of Fig. 3b: the paper's, where results are committed; elsewhere ours as well."""
    return set(figures.PAPERS_VARIANTS if profile == "cpu" else VARIANTS)


def test_broyden_by_the_whole_batch_differs_in_its_rule_of_stopping():
    own, batch = figures.solvers(GIVEN["cpu"]).values()
    assert [batch[name] == own[name] for name in own] == [True, False, False, True, False]
    for name in ("IB", "BB", "BN"):
        for config, other in paired(batch[name], own[name]):
            rules = {part.norm for part in broydens(config.model)}
            assert rules == {"batch"} and {part.norm for part in broydens(other.model)} == {
                "sample"
            }
            assert all(path.startswith("model.") for path in differ(config, other))


def broydens(model):
    """The Broyden solvers of a model, forward and backward."""
    solver, adjoint = solver_and_adjoint(model)
    found = [solver, getattr(adjoint, "solver", None)]
    return [part for part in found if isinstance(part, Broyden)]


@every_profile
def test_the_cost_is_measured_at_the_sizes_of_the_runs(profile):
    given = GIVEN[profile]
    cost, run = figures.solver_cost(given), figures.pair(given, figures.SOLVERS_SCALE)["IN"][0]
    assert set(cost.variants) == solved(profile)
    assert cost.iterations == (run.model.num_iterations,)
    assert cost.training_step == run.model
    changed = {path.split(".")[0] for path in differ(cost, profiles.complexity(given))}
    assert changed == {"variants", "iterations", "training_step"}
    assert cost.size == run.model.slot_size
    assert cost.tokens == (run.model.image_size // 4) ** 2
    if profile in ("cpu", "paper"):  # the scales whose numbers are looked at
        assert cost.batch == run.training.batch_size
        assert cost.slots == run.model.num_slots


@every_profile
def test_iterations_differ_in_their_number_and_length(profile):
    given = GIVEN[profile]
    groups, pair = figures.iterations(given), figures.swept_pair(given)
    counts = {n for _, n in groups}
    assert set(groups) == {(method, n) for method in pair for n in counts}
    assert {1, 7} <= counts
    if profile in ("gpu", "paper"):
        assert counts == {1, 3, 5, 7, 11, 15}
    if profile == "cpu":
        assert counts == {1, 3, 7, 15}
    for (method, n), configs in groups.items():
        if n == 7:
            assert configs == pair[method]
            continue
        for config, usual in paired(configs, pair[method]):
            assert config.model.variant == method
            assert config.model.num_iterations == n
            assert differ(config, usual) - {"training.steps"} == {"model.num_iterations"}


@every_profile
def test_numbers_of_iterations_can_be_compared_at_one_length(profile):
    """That of the sweep; those that other figures show as well may be longer."""
    groups = figures.iterations(GIVEN[profile])
    shared = [key for key in groups if key[1] == 7 or key == ("vanilla", 1)]
    swept = [groups[key] for key in groups if key not in shared]
    (length,) = {config.training.steps for configs in swept for config in configs}
    for config in every_config(groups):
        assert config.training.steps >= length


@every_profile
def test_precisions_differ_in_the_precision(profile):
    given = GIVEN[profile]
    groups, pair = figures.precisions(given), figures.pair(given, None)
    assert list(groups) == [
        ("vanilla", "float32"),
        ("vanilla", "bfloat16"),
        ("IN", "float32"),
        ("IN", "bfloat16"),
    ]
    for method in pair:
        usual = pair[method][0].training.precision
        assert groups[method, usual] == pair[method]
        for half, single in paired(groups[method, "bfloat16"], groups[method, "float32"]):
            assert differ(half, single) == {"training.precision"}
            assert half.training.precision == "bfloat16"


@every_profile
def test_the_flagship_is_the_pair_at_the_largest_scale(profile):
    given = GIVEN[profile]
    scored, pair = figures.flagship(given), figures.vanilla_and_implicit(given)
    groups = {method: [run.slate for run in runs] for method, runs in scored.items()}
    if profile != "cpu":
        assert groups == pair
        return
    for config, other in paired(groups["vanilla"], groups["IN"]):
        assert differ(config, other) == {"model.variant"}
        assert config.model.image_size == 64
    words = captions.caption(given, *every_config(groups))
    assert profiles.SCALES["cpu flagship"] in words
    assert PROFILES["cpu"] not in words


def is_of_the_pair(path: str) -> bool:
    """Whether a field of a config says how the fixed point or its gradient is found."""
    return path.startswith(("model.variant", "model.solver", "model.adjoint"))


def test_the_runs_of_the_protocol_differ_in_what_they_are_for():
    groups = evidence.evidence(GIVEN["cpu"])
    for name, configs in groups.items():
        assert len(set(configs)) == len(configs)
        assert len({config.seed for config in configs}) >= 3
        if name == "property prediction":
            continue
        usual = groups["flagship" if name.startswith("flagship") else "short"][0]
        configs = [config for config in configs if config.kind == "slate"]
        if name in evidence.ours(GIVEN["cpu"]):
            continue
        for config, other in zip(configs, configs[1:]):
            differing = {path for path in differ(config, other) if not is_of_the_pair(path)}
            assert differing <= {"seed"}, name
        if name in ("without clipping", "without warm-up", "without decay"):
            assert len(differ(configs[0], usual)) == 1, name
    everything = [config for configs in groups.values() for config in configs]
    assert set(everything) <= set(figures.all_runs(GIVEN["cpu"]))


def test_figures_can_move_to_the_runs_of_the_protocol(monkeypatch):
    """By three names, and then they find those that have been made for them."""
    given = GIVEN["cpu"]
    monkeypatch.setattr(figures, "PAIR_SCALE", "flagship")
    monkeypatch.setattr(figures, "SOLVERS_SCALE", "short")
    monkeypatch.setattr(figures, "SWEEP_SCALE", "short")
    made = set(every_config(evidence.evidence(given)))
    for name in (
        "fig01_overview",
        "flagship",
        "fig03a_residuals",
        "fig04_qualitative",
        "tab03_fid_mse",
        "sec53_validation_loss",
        "fig03b_solvers",
        "fig05_optimization_tricks",
        "fig06a_gradient_norms",
        "fig06b_iterations",
        "fig06c_one_iteration",
        "fig12_13_no_clipping",
    ):
        shown = slates(given, [name])
        assert shown and set(shown) <= made, name
    usual = figures.tricks(given)
    assert usual["IN", "nothing"] == figures.swept_pair(given)["IN"]


@every_profile
def test_one_iteration_beside_the_pair(profile):
    given = GIVEN[profile]
    groups, pair = figures.one_iteration(given), figures.swept_pair(given)
    assert groups == {"vanilla, n = 1": figures.iterations(given)["vanilla", 1], **pair}
    for one, usual in paired(groups["vanilla, n = 1"], pair["vanilla"]):
        assert differ(one, usual) == {"model.num_iterations"}, "it is as long as the pair, too"
        assert one.model.num_iterations == 1
    for name in groups:
        assert name.split(",")[0] in styles.STYLES


@every_profile
def test_gradient_norms_are_of_runs_that_other_figures_show(profile):
    given = GIVEN[profile]
    groups, tricks = figures.gradient_norms(given), figures.tricks(given)
    for method in ("vanilla", "IN"):
        for removed in ("nothing", "clipping"):
            assert groups.get(removed)[method] == tricks[method, removed]
    del groups["nothing"]
    for config in every_config(groups):
        assert config.training.clip is None, "or nothing could be seen"
    shown = slates(given, ["fig05_optimization_tricks", "fig01_overview"])
    assert set(slates(given, ["fig06a_gradient_norms"])) <= set(shown)


# ---- Locatello et al.'s models ----


@every_profile
def test_the_set_predictors_differ_in_method_and_iterations(profile):
    given = GIVEN[profile]
    groups = figures.property_prediction(given)
    assert set(groups) >= {("vanilla", 1), ("vanilla", 3), ("IN", 3), ("IN", 7)}
    assert max(n for method, n in groups if method == "IN") > 7
    for (method, n), configs in groups.items():
        assert seeds_of(configs) == given.seeds
        for config, other in paired(configs, groups["IN", 3]):
            assert config.model.variant == method
            assert config.model.num_iterations == n
            assert differ(config, other) <= {"model.variant", "model.num_iterations"}
            assert config.training.clip is None
            assert config.model.num_slots >= config.data.max_objects


@every_profile
def test_the_autoencoders_differ_in_method_alone(profile):
    groups = figures.segmentation(GIVEN[profile])
    for config, other in paired(groups["vanilla"], groups["IN"]):
        assert differ(config, other) == {"model.variant"}
        assert config.training.clip is None
        assert config.model.num_slots > config.data.max_objects, "one for the background"


@every_profile
def test_crowded_scenes_show_more_objects_than_any_scene_that_is_trained_on(profile):
    for config in every_config(figures.segmentation(GIVEN[profile])):
        assert differ(config.crowded, config.data) <= {"num_scenes", "min_objects", "max_objects"}
        assert config.crowded.min_objects > config.data.max_objects


def test_crowded_scenes_follow_the_overrides():
    given = parameters.check("smoke", overrides={"data.size": 32, "model.image_size": 32})
    (config,) = figures.segmentation(given)["IN"]
    assert config.crowded.size == config.data.size == 32
    assert config.crowded.min_objects > config.data.max_objects


@pytest.mark.parametrize("figure", [figures.property_prediction, figures.segmentation])
def test_overrides_reach_locatellos_models(figure):
    changed = parameters.check("smoke", overrides={"training.steps": 3})
    for config in every_config(figure(changed)):
        assert config.training.steps == 3


@every_small_profile
def test_a_caption_says_what_locatellos_models_are_trained_on(profile):
    given = GIVEN[profile]
    words = captions.caption(given, *figures.segmentation(given)["IN"])
    assert words.startswith("Generated CLEVR scenes, not the authors' files.")
    assert "dVAE" not in words.replace(PROFILES[profile], "")
    if profile in ("quick", "cpu", "gpu"):
        assert "dVAE" not in words
        assert "smaller networks" in words


# ---- what figures share ----


@every_profile
def test_figures_share_their_runs(profile):
    given = GIVEN[profile]
    named = {name: set(figures.runs_of(name, given)) for name in NOTEBOOKS}
    assert named["fig12_13_no_clipping"] <= named["fig05_optimization_tricks"]
    assert named["fig04_qualitative"] == named["tab03_fid_mse"]
    trained = {config for config in named["tab03_fid_mse"] if config.kind != "regeneration"}
    assert trained <= named["sec53_validation_loss"]
    for part in ("fig03a_residuals", "fig02_one_line", "fig09_10_decompositions"):
        assert named[part] <= named["fig01_overview"]
    assert named["fig01_overview"] <= named["sec53_validation_loss"]
    solved_pair = figures.pair(given, figures.SOLVERS_SCALE)
    assert set(every_config(solved_pair)) <= named["fig03b_solvers"]
    for whole in ("fig06b_iterations", "fig06c_one_iteration"):
        assert set(every_config(figures.swept_pair(given))) <= named[whole]
    assert named["data_gallery"] == set()


@every_profile
def test_all_runs_are_those_of_every_notebook(profile):
    given = GIVEN[profile]
    everything = figures.all_runs(given)
    assert len(set(everything)) == len(everything)
    for name in NOTEBOOKS:
        assert set(figures.runs_of(name, given)) <= set(everything)


# ---- data ----

DATA_SETS = {
    "CLEVR-Mirror": ("clevr_mirror", "generator"),
    "ShapeStacks": ("shapestacks", "generator"),
    "COCO-2017": ("coco", "files"),
}


@every_profile
def test_data_sets_differ_in_their_data_alone(profile):
    given = GIVEN[profile]
    groups, pair = figures.generalisation(given), figures.vanilla_and_implicit(given)
    names = list(dict.fromkeys(name for name, _ in groups))
    assert names == ["CLEVR-Mirror", "ShapeStacks", "COCO-2017"][: 3 if profile == "paper" else 2]
    for (name, method), configs in groups.items():
        assert {(config.data.name, config.data.door) for config in configs} == {DATA_SETS[name]}
        for config, clevr in paired(configs, pair[method]):
            changed = differ(config, clevr)
            parts = {path.removeprefix("dvae.").split(".")[0] for path in changed}
            assert parts == (set() if name == "CLEVR-Mirror" else {"data"})
            assert not {"data.size", "data.num_scenes", "data.seed"} & changed
    shown = {config.data.name for config in slates(given)}
    assert shown == {DATA_SETS[name][0] for name in names}


def test_the_papers_resolutions():
    """Sec. 5.3 at 64x64 and at 96x96."""
    given = GIVEN["paper"]
    small, large = (figures.generalisation(given, size) for size in (64, 96))
    assert figures.resolutions(given) == (64, 96)
    for key, configs in small.items():
        for config, larger in paired(configs, large[key]):
            assert differ(config, larger) == {"data.size", "model.image_size"}
            assert (config.data.size, larger.data.size) == (64, 96)
    both = {*every_config(small), *every_config(large)}
    assert set(slates(given, ["sec53_validation_loss"])) == both
    for configs in [*small.values(), *large.values()]:
        assert len(configs) == 4, "seeds"


def test_the_papers_regenerated_images():
    """Table 3 and Figure 4 at 96x96, all test images, with the network of FID."""
    given = GIVEN["paper"]
    scored = figures.regeneration(given)
    shown = {key: [run.slate for run in group] for key, group in scored.items()}
    assert shown == figures.generalisation(given, 96)
    for run in every_config(scored):
        assert run.features == "inception"
        assert run.images is None


@every_small_profile
def test_the_small_scales_data_sets(profile):
    """What generators can make, at one size."""
    given = GIVEN[profile]
    (size,) = figures.resolutions(given)
    groups = figures.generalisation(given)
    assert groups == figures.generalisation(given, size)
    for config in slates(given):
        assert config.data.size in ((size, 32) if profile == "cpu" else (size,))
        assert config.data.door == "generator"
        assert data.which_door(config.data.name, "generator") == "generator"


@every_small_profile
def test_the_small_scales_regenerated_images(profile):
    """Scored with the stand-in network, whose distances are not FID."""
    given = GIVEN[profile]
    scored = figures.regeneration(given)
    shown = {key: [run.slate for run in group] for key, group in scored.items()}
    assert shown == figures.generalisation(given)
    assert {run.features for run in every_config(scored)} == {"efficientnet-lite0"}
    other = figures.regeneration(given, "inception")
    for key in scored:
        for fid, stand_in in paired(other[key], scored[key]):
            assert differ(fid, stand_in) == {"features"}
            assert fid.features == "inception"


def test_a_covariance_takes_more_images_than_features():
    for run in every_config(figures.regeneration(GIVEN["cpu"])):
        assert run.images > frechet.NETWORKS["efficientnet-lite0"].dimension


@every_profile
def test_models_fit_their_data_and_their_dvae(profile):
    configs = slates(GIVEN[profile])
    assert len(configs) > 20
    for config in configs:
        assert config.model.image_size == config.data.size
        assert (config.dvae is None) == (profile == "paper")
        if config.dvae:
            assert config.dvae.data == config.data
            assert config.dvae.vocab_size == config.model.vocab_size


@every_profile
def test_runs_on_one_data_set_share_a_dvae(profile):
    """So they see the same tokens."""
    dvaes = {config.dvae for config in slates(GIVEN[profile])}
    # one more collapses on purpose; at the cpu scale the flagship and the sweeps have their own
    assert len(dvaes) == {"paper": 1, "cpu": 5}.get(profile, 3)


# ---- what builds on what ----


def prerequisites(config):
    """What must be there before a config can be run, as its kind says."""
    if config.kind == "regeneration":
        return {config.slate} | prerequisites(config.slate)
    return {config.dvae} - {None} if config.kind == "slate" else set()


@every_profile
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_what_is_needed_comes_first_and_once(notebook, profile):
    given = GIVEN[profile]
    listed = figures.runs_of(notebook, given)
    assert len(set(listed)) == len(listed)
    for k, config in enumerate(listed):
        assert prerequisites(config) <= set(listed[:k])
    shown = set(every_config(NOTEBOOKS[notebook](given)))
    assert set(listed) == shown.union(*map(prerequisites, shown))


def test_needs():
    given = GIVEN["smoke"]
    scored = figures.regeneration(given)["ShapeStacks", "IN"][0]
    assert scored.slate.dvae.data.name == "shapestacks"
    assert scored.needs() == [scored.slate]
    assert scored.slate.needs() == [scored.slate.dvae]
    assert scored.slate.dvae.needs() == []
    assert with_needs([scored]) == [scored.slate.dvae, scored.slate, scored]
    for config in (profiles.complexity(given), figures.solver_cost(given)):
        assert config.needs() == []
    for config in every_config(figures.segmentation(given) | figures.property_prediction(given)):
        assert config.needs() == []
    joint = figures.regeneration(GIVEN["paper"])["ShapeStacks", "IN"][0]
    assert joint.needs() == [joint.slate]
    assert joint.slate.needs() == []


# ---- seeds ----


def trained(group):
    return [config for config in group if config.kind != "complexity"]


@every_profile
@pytest.mark.parametrize("seeds, expected", [([4, 1], (4, 1)), (7, (7,)), ((0,), (0,))])
def test_given_seeds_are_those_of_every_run(profile, seeds, expected):
    given = parameters.check(profile, seeds)
    assert given.seeds == expected
    for notebook in with_seeds():
        for group in lists(notebook(given)):
            if trained(group):
                assert seeds_of(group) == expected


def with_seeds():
    """What notebooks show, but the models to explore and to diagnose, which are the first seeds."""
    fewer = (figures._explored, figures._diagnosed)
    return [notebook for notebook in NOTEBOOKS.values() if notebook not in fewer]


@every_profile
def test_the_profiles_own_seeds(profile):
    """As many for all runs but the longest pair's, of which the cpu scale has more."""
    given = GIVEN[profile]
    assert given.seeds == {"smoke": (0,), "quick": (0,), "paper": (0, 1, 2, 3)}.get(
        profile, (0, 1, 2)
    )
    longest = list(figures.pair_of_sweeps(given).values())
    for notebook in with_seeds():
        for group in map(trained, lists(notebook(given))):
            if group and (profile != "cpu" or group not in longest):
                assert seeds_of(group) == given.seeds
    for group in longest:
        assert seeds_of(group) == ((0, 1, 2, 3, 4) if profile == "cpu" else given.seeds)


# ---- overrides ----

COMPARED = [
    (figures.tricks, "training.clip", 0.5),
    (figures.tricks, "training.lr_decay_epochs", 2),
    (figures.tricks, "training.warmup_steps", 3),
    (figures.gradient_norms, "training.clip", None),
    (figures.iterations, "model.num_iterations", 3),
    (figures.one_iteration, "model.num_iterations", 7),
    (figures.generalisation, "data.name", "shapestacks"),
    (figures.regeneration, "data.name", "shapestacks"),
    (figures.property_prediction, "model.num_iterations", 5),
]


@pytest.mark.parametrize("profile", ["smoke", "paper"])
@pytest.mark.parametrize("groups, path, value", COMPARED)
def test_what_a_figure_compares_cannot_be_overridden(groups, path, value, profile):
    given = parameters.check(profile, overrides={path: value})
    words = f"overrides: {re.escape(path)} is what this figure compares"
    with pytest.raises(ValueError, match=words):
        groups(given)
    for config in figures.vanilla_and_implicit(given)["IN"]:
        assert flat(config)[path] == value, "of figures that do not compare it"


def test_several_overrides_of_what_is_compared_are_all_named():
    changes = {"training.warmup_steps": 1, "training.lr": 1.0, "training.clip": 2.0}
    with pytest.raises(ValueError, match=r"training\.clip and training\.warmup_steps is"):
        figures.tricks(parameters.check("smoke", overrides=changes))
    with pytest.raises(ValueError, match="clip"):
        figures.solvers(parameters.check("smoke", overrides={"training.clip": 0.5}))


def test_sizes_are_compared_at_the_papers_scale():
    given = parameters.check("paper", overrides={"data.size": 32, "model.image_size": 32})
    with pytest.raises(ValueError, match=r"data\.size and model\.image_size"):
        figures.runs_of("sec53_validation_loss", given)


@every_profile
def test_an_overridden_number_of_steps_is_that_of_every_run(profile):
    given = parameters.check(profile, overrides={"training.steps": 4, "model.mlp_hidden_size": 8})
    configs = slates(given)
    assert len(configs) > 20
    for config in configs:
        assert config.training.steps == 4
        assert config.model.mlp_hidden_size == 8
    usual = {config.dvae for config in slates(GIVEN[profile])}
    assert {config.dvae for config in configs} == usual, "the dVAE's training is not the runs'"


@every_small_profile
def test_an_overridden_data_set_reaches_the_dvaes(profile):
    changes = {"data.num_scenes": 61, "model.vocab_size": 20, "data.seed": 5}
    for config in slates(parameters.check(profile, overrides=changes)):
        assert config.dvae.data == config.data
        assert config.data.num_scenes == 61
        assert config.data.seed == 5
        assert config.model.vocab_size == config.dvae.vocab_size == 20


@every_profile
def test_steps_are_the_profiles_unless_given_or_overridden(profile):
    usual = profiles.slate(GIVEN[profile], "IN", 0)
    shorter = profiles.slate(GIVEN[profile], "IN", 0, steps=5)
    assert shorter.training.steps == 5
    assert differ(shorter, usual) == {"training.steps"}
    overridden = parameters.check(profile, overrides={"training.steps": 4})
    assert profiles.slate(overridden, "IN", 0, steps=5).training.steps == 4


def test_a_change_reaches_the_config_that_it_names():
    given = GIVEN["smoke"]
    changed = profiles.slate(given, "BB", 3, model__num_iterations=2, training__lr=0.5)
    assert changed.model.variant == "BB"
    assert changed.seed == 3
    assert changed.model.num_iterations == 2
    assert changed.training.lr == 0.5
    usual = profiles.slate(given, "BB", 3)
    assert differ(changed, usual) == {"model.num_iterations", "training.lr"}
    with pytest.raises(ValueError, match="'model.iterations'.*num_iterations"):
        profiles.slate(given, "IN", 0, model__iterations=2)


# ---- captions ----


def caption(given, figure):
    return captions.caption(given, *every_config(figure(given)))


def test_a_caption_says_where_every_picture_comes_from():
    small = caption(GIVEN["cpu"], figures.generalisation)
    for words in (
        "Generated CLEVR-Mirror scenes, not the authors' files.",
        "Generated ShapeStacks scenes, not the authors' files.",
    ):
        assert small.count(words) == 1, "once, however many runs"
    assert profiles.SCALES["cpu flagship"] in small
    assert "COCO-2017" not in small
    papers = caption(GIVEN["paper"], figures.generalisation)
    assert "COCO-2017, the authors' files." in papers
    assert "photo" not in papers


def test_a_caption_names_the_authors_files_and_the_overrides():
    files = parameters.check("cpu", overrides={"data.door": "files", "data.name": "shapestacks"})
    words = captions.caption(files)
    assert words.startswith("ShapeStacks scenes, the authors' files.")
    assert "Overridden: data.door = files, data.name = shapestacks." in words


@every_profile
def test_a_caption_without_runs_is_that_of_the_pair(profile):
    words = captions.caption(GIVEN[profile])
    assert words == caption(GIVEN[profile], figures.vanilla_and_implicit)
    assert "CLEVR-Mirror" in words
    assert "Stacks" not in words


@every_profile
@pytest.mark.parametrize(
    "figure", [figures.vanilla_and_implicit, figures.tricks, figures.iterations]
)
def test_a_caption_says_how_long_its_own_runs_were_trained(profile, figure):
    """The sweeps can be shorter than the pair, and a figure of both names both."""
    given = GIVEN[profile]
    lengths = sorted({config.training.steps for config in every_config(figure(given))})
    assert len(lengths) <= 2
    words = " or ".join(f"{steps:,}" for steps in lengths)
    assert f". {words} training steps. Scale" in caption(given, figure)
    if profile == "paper":
        assert lengths == [250_000]


def test_photographs_are_as_many_as_the_caption_says():
    counts = [[p.split for p in PHOTOGRAPHS].count(split) for split in data.SPLITS]
    train, validation, test = counts
    words = (
        f"Crops of {len(PHOTOGRAPHS)} photographs "
        f"({train} to train on, {validation} to validate, {test} to test)"
    )
    photos = profiles.slate(GIVEN["cpu"], "IN", 0, data__name="photos")
    assert words in captions.caption(GIVEN["cpu"], photos)


# ---- the authors' files, and other sizes ----


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_the_authors_files_of_all_three_data_sets(profile):
    given = parameters.check(profile, overrides={"data.door": "files"})
    assert list(profiles.data_sets(given)) == ["CLEVR-Mirror", "ShapeStacks", "COCO-2017"]
    shown = {c.data.name for c in every_config(figures.generalisation(given))}
    assert shown == {"clevr_mirror", "shapestacks", "coco"}
    assert {c.data.door for c in every_config(figures.generalisation(given))} == {"files"}


def test_another_size_is_the_one_resolution():
    given = parameters.check("cpu", overrides={"data.size": 48, "model.image_size": 48})
    assert figures.resolutions(given) == (48,)
    for config in every_config(figures.generalisation(given, 48)):
        assert config.data.size == config.model.image_size == 48
