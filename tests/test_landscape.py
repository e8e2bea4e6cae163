"""Landscapes against closed forms, invariances, NumPy and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from lazyscope import landscape, mlp, teacher_student, two_layer
from lazyscope.landscape import surface
from lazyscope.landscape.vectors import flatten
from lazyscope.tangent import tangent_kernel

KEY = jax.random.key(0)
MODEL = two_layer(6, 4)
PROBLEM = teacher_student(jax.random.key(1), n=15, d=4, n_test=1)
PARAMS = MODEL.init(KEY)
AXES = {"a": 0}


def loss(params):
    return PROBLEM.loss(MODEL.apply(params, PROBLEM.x), PROBLEM.y)


def bowl(params):
    """½(3 u² + v²) + 5 w², on a pytree."""
    return 1.5 * params["u"] ** 2 + 0.5 * params["vw"][0] ** 2 + 5 * params["vw"][1] ** 2


CENTER = {"u": jnp.asarray(0.0), "vw": jnp.zeros(2)}


def axis(name, index=()):
    return {**CENTER, name: CENTER[name].at[index].set(1.0)}


def random_points(count, shape=(3, 5)):
    return [{"w": jax.random.normal(k, shape), "steps": 3} for k in jax.random.split(KEY, count)]


# Surfaces


def test_the_surface_of_a_quadratic_bowl_is_exact():
    found = landscape.plane(bowl, CENTER, (axis("u"), axis("vw", 0)), extent=((-1.0, 2.0), 0.5), resolution=(7, 4))
    x, y = np.linspace(-1, 2, 7), np.linspace(-0.5, 0.5, 4)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    np.testing.assert_allclose(found.values, 1.5 * x[:, None] ** 2 + 0.5 * y[None] ** 2, atol=1e-15)
    assert found.gaps == 0


@pytest.mark.parametrize("device", jax.local_devices())
def test_a_center_on_one_device_is_a_center(device):
    there = jax.device_put(CENTER, device)
    found = landscape.line(bowl, there, axis("u"), extent=0.5, resolution=5)
    np.testing.assert_allclose(found.values, 1.5 * np.linspace(-0.5, 0.5, 5) ** 2, atol=1e-15)


def test_a_line_through_two_points_has_their_values_at_0_and_1():
    first, second = PARAMS, MODEL.init(jax.random.key(5))
    frame = landscape.between(first, second)
    found = landscape.line(loss, frame.center, frame.directions[0], extent=(0.0, 1.0), resolution=3)
    np.testing.assert_allclose(found.values[jnp.array([0, -1])], [loss(first), loss(second)], rtol=1e-12)


@pytest.mark.parametrize("points", [1, 7])
def test_batched_equals_looped(points, monkeypatch):
    monkeypatch.setattr(surface, "BATCH_POINTS", points)
    directions = landscape.filter_normalised(KEY, PARAMS, axes=AXES)
    found = landscape.plane(loss, PARAMS, directions, extent=1.5, resolution=(9, 5))
    at = jax.jit(lambda s, t: loss(jax.tree.map(lambda c, u, v: c + s * u + t * v, PARAMS, *directions)))
    looped = [[float(at(s, t)) for t in found.y] for s in found.x]
    np.testing.assert_allclose(found.values, looped, rtol=1e-12)


@pytest.mark.slow
def test_a_batch_stays_within_the_memory_budget(monkeypatch):
    monkeypatch.setattr(surface, "CPU_BATCH_BYTES", 1e12)  # as on an accelerator
    model = two_layer(200, 4)
    center = model.init(KEY)

    def function(params):
        return jnp.mean(model.apply(params, PROBLEM.x) ** 2)

    coordinates = jnp.zeros((400, 2))
    matrix = surface.direction_matrix(center, landscape.filter_normalised(KEY, center, axes=AXES))
    for budget in (4e5, 4e6):
        devices = tuple(jax.local_devices())
        batch = surface._batch(function, center, coordinates, budget, devices)
        program = surface._evaluate.lower(function, batch, devices, center, matrix, coordinates)
        analysis = program.compile().memory_analysis()
        assert analysis is not None
        assert 1 < batch < 200
        assert budget / 20 < analysis.temp_size_in_bytes < budget


def test_values_that_are_not_finite_are_gaps_and_counted():
    found = landscape.line(lambda p: jnp.log(p["u"]), CENTER, axis("u"), resolution=5)
    assert found.gaps == 3  # log of −1, −½ and 0
    np.testing.assert_array_equal(np.isnan(found.values), [True, True, True, False, False])
    dataset = found.to_xarray()
    assert dataset.attrs["gaps"] == 3
    assert dataset.value.dims == ("x",)
    assert landscape.plane(bowl, CENTER, (axis("u"), axis("vw", 0)), resolution=2).to_xarray().value.shape == (2, 2)


def test_the_sublevel_radius_of_a_bowl():
    half = landscape.line(bowl, CENTER, axis("vw", 0), extent=2.0, resolution=401)
    assert landscape.sublevel_radius(half, level=0.5) == pytest.approx(1, abs=1e-3)
    assert landscape.sublevel_radius(half, level=100.0) == np.inf
    assert landscape.sublevel_radius(half, level=-1.0) == 0
    disc = landscape.plane(lambda p: jnp.sum(p["vw"] ** 2), CENTER, (axis("vw", 0), axis("vw", 1)), extent=2.0)
    assert landscape.sublevel_radius(disc, level=1.0) == pytest.approx(1, abs=0.05)


# Frames


def test_a_plane_through_three_points_contains_them():
    points = random_points(3)
    frame = landscape.through(*points)
    found = landscape.project(points, *frame)
    np.testing.assert_allclose(found.off_plane, 0, atol=1e-13)
    np.testing.assert_allclose(found.in_plane, 1)
    np.testing.assert_allclose(found.coordinates[0], 0, atol=1e-14)
    distance = jnp.linalg.norm(points[1]["w"] - points[0]["w"])
    np.testing.assert_allclose(found.coordinates[1], [distance, 0], atol=1e-13)
    assert frame.directions[0]["steps"] == 3  # what is no parameter travels along


def test_a_filter_normalised_surface_does_not_change_when_relu_units_are_rescaled():
    factors = jnp.array([0.1, 0.5, 1.0, 2.0, 10.0, 100.0])
    rescaled = {"a": PARAMS["a"] / factors, "b": PARAMS["b"] * factors[:, None]}
    surfaces = [
        landscape.plane(loss, p, landscape.filter_normalised(KEY, p, axes=AXES), extent=2.0, resolution=5).values
        for p in (PARAMS, rescaled)
    ]
    np.testing.assert_allclose(surfaces[1], surfaces[0], rtol=1e-11)
    naive = landscape.plane(loss, rescaled, landscape.filter_normalised(KEY, PARAMS, axes=AXES), resolution=5).values
    assert float(jnp.max(jnp.abs(naive / surfaces[0] - 1))) > 0.1


def test_filters_have_the_norm_of_the_weights_and_biases_stay():
    params = mlp((4, 5, 3), bias=True).init(KEY)
    params["layers"][0]["b"] = jnp.ones(5)
    first, second = landscape.filter_normalised(KEY, params)
    for i in range(2):
        lengths = [jnp.linalg.norm(p["layers"][i]["w"], axis=1) for p in (params, first)]
        np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-12)
        np.testing.assert_array_equal(first["layers"][i]["b"], 0)
    assert float(jnp.max(jnp.abs(first["layers"][0]["w"] - second["layers"][0]["w"]))) > 0.1
    columns = landscape.filter_normalised(KEY, params, axes={"layers/0/w": 1, "b": None})[0]["layers"][0]
    np.testing.assert_allclose(jnp.linalg.norm(columns["w"], axis=0), jnp.linalg.norm(params["layers"][0]["w"], axis=0))
    np.testing.assert_allclose(jnp.linalg.norm(columns["b"]), jnp.sqrt(5.0))


def test_principal_components_are_those_of_numpys_svd():
    points = random_points(7)
    rows = np.stack([np.asarray(p["w"]).reshape(-1) for p in points])
    sizes = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    found = landscape.principal(points, count=3)
    np.testing.assert_allclose(found.variances, sizes[:3] ** 2 / 6, rtol=1e-12)
    np.testing.assert_allclose(found.explained, sizes[:3] ** 2 / np.sum(sizes**2), rtol=1e-12)
    placed = landscape.project(points, found.center, found.directions)
    np.testing.assert_allclose(np.var(placed.coordinates, axis=0, ddof=1), found.variances, rtol=1e-10)
    np.testing.assert_allclose(placed.explained, jnp.sum(found.explained), rtol=1e-12)


def test_principal_components_of_a_trajectory_about_its_last_point():
    points = random_points(4)
    found = landscape.principal(points, center=points[-1])
    np.testing.assert_array_equal(found.center["w"], points[-1]["w"])


# Curvature


def test_the_eigen_directions_of_a_bowl_are_exact():
    found = landscape.hessian_directions(bowl, CENTER, count=3)
    np.testing.assert_allclose(found.values, [10, 3, 1], rtol=1e-9)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-8)
    np.testing.assert_allclose(jnp.abs(found.directions[0]["vw"]), [0, 1], atol=1e-8)
    np.testing.assert_allclose(jnp.abs(found.directions[1]["u"]), 1, rtol=1e-8)


def test_hessian_directions_are_those_of_the_dense_hessian():
    flat, unflatten = flatten(PARAMS)
    values = np.linalg.eigvalsh(compiled(jax.hessian(lambda v: loss(unflatten(v))))(flat))
    largest = values[np.argsort(-np.abs(values))[:3]]
    found = landscape.hessian_directions(loss, PARAMS, count=3, key=KEY)
    np.testing.assert_allclose(found.values, largest, rtol=1e-8)


def test_kernel_directions_carry_the_eigenvalues_of_the_kernel():
    found = landscape.kernel_directions(MODEL.apply, PARAMS, PROBLEM.x)
    dense = np.linalg.eigvalsh(tangent_kernel(MODEL.apply, PARAMS, PROBLEM.x) / 15)[::-1]
    np.testing.assert_allclose(found.values, dense[:2], rtol=1e-9)
    _, moved = jax.jvp(lambda p: MODEL.apply(p, PROBLEM.x), (PARAMS,), (found.directions[0],))
    np.testing.assert_allclose(jnp.sum(moved**2) / 15, dense[0], rtol=1e-9)


# Projections


def test_a_projection_keeps_the_true_value_beside_that_of_its_shadow():
    directions = (axis("u"), {"u": jnp.asarray(1.0), "vw": jnp.array([1.0, 0.0])})  # not orthogonal
    point = {"u": jnp.asarray(3.0), "vw": jnp.array([2.0, 4.0])}
    found = landscape.project([point, CENTER], CENTER, directions, function=bowl)
    np.testing.assert_allclose(found.coordinates[0], [1, 2], atol=1e-12)
    np.testing.assert_allclose(found.off_plane, [4, 0], atol=1e-12)
    np.testing.assert_allclose(found.in_plane, [13 / 29, 1], rtol=1e-12)
    np.testing.assert_allclose(found.explained, 13 / 29, rtol=1e-12)
    np.testing.assert_allclose(found.values, [float(bowl(point)), 0])
    np.testing.assert_allclose(found.shadows, [1.5 * 9 + 0.5 * 4, 0], atol=1e-12)
    assert np.isnan(landscape.project([point], CENTER, directions).values).all()


# Alignment


def test_alignment_recovers_a_known_permutation_of_a_two_layer_net():
    order = jax.random.permutation(KEY, 6)
    shuffled = {"a": PARAMS["a"][order], "b": PARAMS["b"][order]}
    found = landscape.align(shuffled, PARAMS, landscape.two_layer_axes())
    np.testing.assert_array_equal(found.params["b"], PARAMS["b"])
    np.testing.assert_array_equal(order[found.orders["hidden"]], np.arange(6))
    assert float(found.before) > 0
    assert float(found.after) == 0


@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_alignment_recovers_known_permutations_of_a_deep_net(bias):
    model = mlp((4, 8, 7, 6, 2), bias=bias)
    layers = [jax.tree.map(np.asarray, layer) for layer in model.init(KEY)["layers"]]
    if bias:
        layers = [layer | {"b": np.arange(layer["b"].size) * 0.3} for layer in layers]
    reference = {"layers": layers}
    moved = [dict(layer) for layer in layers]
    for i, key in enumerate(jax.random.split(jax.random.key(3), 3)):
        order = np.asarray(jax.random.permutation(key, layers[i]["w"].shape[0]))
        moved[i] = {name: leaf[order] for name, leaf in moved[i].items()}
        moved[i + 1] = moved[i + 1] | {"w": moved[i + 1]["w"][:, order]}
    found = landscape.align({"layers": moved}, reference, landscape.mlp_axes(4, bias=bias))
    for got, expected in zip(found.params["layers"], layers, strict=True):
        np.testing.assert_array_equal(got["w"], expected["w"])


def test_alignment_leaves_the_function_alone_and_comes_nearer():
    model = mlp((4, 8, 7, 2))
    one, other = (model.init(key) for key in jax.random.split(KEY))
    found = landscape.align(one, other, landscape.mlp_axes(3))
    outputs = [model.apply(p, PROBLEM.x) for p in (one, found.params)]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-10)
    assert float(found.after) < float(found.before)


# Refusals


def test_bad_input_is_one_line():
    good = (axis("u"), axis("vw", 0))
    zero, other = jax.tree.map(jnp.zeros_like, CENTER), {"u": jnp.asarray(1.0)}
    cases = [
        (
            lambda: landscape.plane(bowl, CENTER, (good[0], other)),
            r"tree and shapes of the center, got at 'vw' nothing",
        ),
        (
            lambda: landscape.plane(bowl, CENTER, (good[0], zero)),
            "not zero, got direction 1 zero: draw another one",
        ),
        (lambda: landscape.plane(bowl, CENTER, (good[0], good[0])), "independent, got 2 in a smaller space"),
        (lambda: landscape.plane(bowl, CENTER, good[:1]), "a plane needs 2 directions, got 1"),
        (lambda: landscape.plane(bowl, CENTER, good, extent=-1.0), "an extent must be a positive half-width"),
        (lambda: landscape.plane(bowl, CENTER, good, resolution=1), "resolution of at least 2 points"),
        (lambda: landscape.plane(bowl, CENTER, good, memory_budget=100.0), "a grid of 2601 points must fit memory_bud"),
        (lambda: landscape.plane(lambda p: p["vw"], CENTER, good), r"one real value, got float64 of shape \(2,\)"),
        (lambda: landscape.through(CENTER, good[0], good[0]), "independent"),
        (lambda: landscape.principal([CENTER, good[0]]), "2 principal components need .* got 1"),
        (lambda: landscape.principal([]), "at least one point is needed"),
        (lambda: landscape.filter_normalised(KEY, PARAMS, axes={"c": 0}), "must name parameters, got 'c'"),
        (lambda: landscape.filter_normalised(KEY, PARAMS, axes={"a": 1}), "one of its 1, got 1"),
        (lambda: landscape.align(PARAMS, PARAMS, {"a": ("hidden",)}), "each of the 2 axes of 'b', got None"),
        (lambda: landscape.hessian_directions(lambda p: p["u"] ** 2, CENTER), "not 0, got 1"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
