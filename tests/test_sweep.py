import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lazyscope import sweep
from lazyscope.sweep import Memory
from lazyscope.sweep.axes import points, root_key, seed_list

KEY = jax.random.key(5)


def draw(key, *, t, power=1):
    return {"value": t**power * jax.random.normal(key), "path": t * jnp.arange(3.0)}


DIMS = {"path": ("step",)}


def test_sweep_equals_a_python_loop():
    ds = sweep(draw, {"t": [0.5, 2.0, 3.0]}, key=KEY, seeds=[4, 7], dims=DIMS)
    assert ds.value.dims == ("t", "seed")
    assert ds.path.dims == ("t", "seed", "step")
    for t in (0.5, 2.0, 3.0):
        for seed in (4, 7):
            expected = draw(jax.random.fold_in(KEY, seed), t=t)
            np.testing.assert_allclose(ds.value.sel(t=t, seed=seed), expected["value"], rtol=1e-14)
            np.testing.assert_array_equal(ds.path.sel(t=t, seed=seed), expected["path"])


def test_cells_of_a_seed_share_their_random_numbers():
    ds = sweep(draw, {"t": [1.0, 3.0]}, key=KEY, seeds=3, dims=DIMS)
    np.testing.assert_allclose(ds.value.sel(t=3.0), 3 * ds.value.sel(t=1.0), rtol=1e-14)
    assert len(set(ds.value.sel(t=1.0).values)) == 3


def test_static_axes_reach_the_function_as_python_values():
    seen = []

    def cell(key, *, t, power):
        seen.append(power)
        return draw(key, t=t, power=power)

    ds = sweep(cell, {"t": [2.0], "power": [1, 2]}, key=KEY, seeds=1, static=["power"], dims=DIMS)
    assert set(seen) == {1, 2}
    assert all(isinstance(p, int) for p in seen)
    np.testing.assert_allclose(ds.value.sel(power=2), 2 * ds.value.sel(power=1), rtol=1e-14)


def test_a_sweep_over_seeds_alone_has_one_cell_a_seed():
    ds = sweep(lambda key: {"u": jax.random.uniform(key)}, {}, key=KEY, seeds=5)
    assert ds.u.dims == ("seed",)


def test_chunk_size_changes_no_bit(monkeypatch):
    results = []
    for capacity, seconds in ((1, 1e-9), (3, 10.0), (128, 10.0)):
        monkeypatch.setattr(sys.modules["lazyscope.sweep.program"], "BUFFER_CELLS", capacity)
        monkeypatch.setattr(sys.modules["lazyscope.sweep"], "CHUNK_SECONDS", seconds)
        results.append(sweep(draw, {"t": [0.5, 2.0, 3.0]}, key=KEY, seeds=3, dims=DIMS))
    assert results[0].identical(results[1])
    assert results[0].identical(results[2])


@pytest.mark.parametrize("room", [np.inf, 0])
def test_cells_that_are_mapped_as_on_a_card_have_the_numbers_of_those_one_by_one(monkeypatch, room):
    program = sys.modules["lazyscope.sweep.program"]
    in_turn = sweep(draw, {"t": [0.5, 2.0, 3.0]}, key=KEY, seeds=5, dims=DIMS)
    monkeypatch.setattr(program, "one_by_one", lambda device: False)
    monkeypatch.setattr(program, "room", lambda device: room)
    mapped = sweep(draw, {"t": [0.5, 2.0, 3.0]}, key=KEY, seeds=5, dims=DIMS)
    xr.testing.assert_allclose(mapped, in_turn, rtol=1e-14)


def test_cells_are_mapped_in_as_large_shares_as_the_card_has_room_for(monkeypatch):
    module = sys.modules["lazyscope.sweep.program"]
    monkeypatch.setattr(module, "one_by_one", lambda device: False)
    monkeypatch.setattr(module, "room", lambda device: 4 * 8 * 1000)  # what four cells return, and no more
    made, results = [], module.Program._results
    monkeypatch.setattr(module.Program, "_results", lambda self, *given: made.append(given[1]) or results(self, *given))

    def cell(key):
        return {"values": jax.random.normal(key, (1000,))}

    ds = sweep(cell, {}, key=KEY, seeds=16, dims={"values": ("place",)})
    assert set(made) < {1, 2, 4}
    np.testing.assert_allclose(ds["values"].sel(seed=8), jax.random.normal(jax.random.fold_in(KEY, 8), (1000,)))


class OneView:
    """A store that keeps the cells of whatever it is asked for in one place."""

    def __init__(self):
        self.rows = {}

    def view(self, function, *, version, key, static=()):
        return Memory(self.rows)


def test_cells_in_the_store_are_not_computed_again():
    store = OneView()
    first = sweep(draw, {"t": [1.0, 2.0]}, key=KEY, seeds=3, dims=DIMS, store=store)
    for row in store.rows.values():
        row["value"] = np.asarray(100.0)
    longer = sweep(draw, {"t": [1.0, 2.0, 3.0]}, key=KEY, seeds=4, dims=DIMS, store=store)
    np.testing.assert_array_equal(longer.value.sel(t=[1.0, 2.0], seed=[0, 1, 2]), 100.0)
    fresh = sweep(draw, {"t": [1.0, 2.0, 3.0]}, key=KEY, seeds=4, dims=DIMS)
    np.testing.assert_array_equal(longer.value.sel(t=3.0), fresh.value.sel(t=3.0))
    np.testing.assert_array_equal(longer.value.sel(seed=3), fresh.value.sel(seed=3))
    np.testing.assert_array_equal(first.path, fresh.path.sel(t=[1.0, 2.0], seed=[0, 1, 2]))


def test_a_function_that_runs_its_own_loop_gives_the_same_dataset():
    options = {"key": KEY, "seeds": 3, "dims": DIMS}
    by_hand = sweep(draw, {"t": [1.0, 2.0, 3.0]}, compiled=False, **options)
    compiled = sweep(draw, {"t": [1.0, 2.0, 3.0]}, **options)
    np.testing.assert_allclose(by_hand.value, compiled.value, rtol=1e-14)
    np.testing.assert_array_equal(by_hand.path, compiled.path)
    assert by_hand.value.dtype == np.float64


def test_local_settings_reach_a_function_and_are_no_part_of_a_cell():
    asked = []

    class Watching(OneView):
        def view(self, function, **options):
            asked.append(function)
            return super().view(function, **options)

    def cell(key, *, t, folder):
        return {"value": t * len(folder)}

    store = Watching()
    ds = sweep(cell, {"t": [1.0, 2.0]}, key=KEY, seeds=1, store=store, compiled=False, local={"folder": "abc"})
    np.testing.assert_array_equal(ds.value[:, 0], [3.0, 6.0])
    assert asked == [cell]
    again = sweep(cell, {"t": [1.0, 2.0]}, key=KEY, seeds=1, store=store, compiled=False, local={"folder": "elsewhere"})
    np.testing.assert_array_equal(again.value, ds.value)


def test_an_error_in_a_loop_of_its_own_is_raised_and_what_was_finished_kept():
    store = OneView()

    def cell(key, *, t):
        if t == 2.0:
            while not store.rows:  # on another device the first cell may still be at work
                time.sleep(0.01)
            raise ValueError("no such scale")
        return {"value": t}

    with pytest.raises(ValueError, match="no such scale"):
        sweep(cell, {"t": [1.0, 2.0, 3.0]}, key=KEY, seeds=1, store=store, compiled=False)
    assert 1.0 in [dict(kept.coords)["t"] for kept in store.rows]


def test_progress_counts_every_cell_once():
    calls = []
    sweep(draw, {"t": [1.0, 2.0]}, key=KEY, seeds=3, dims=DIMS, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 6)
    assert {call[1] for call in calls} == {6}


def value(key, *, t):
    return {"value": t * jax.random.normal(key)}


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"t": []}, {}, "axis 't' is empty"),
        ({"t": [1.0, 1.0]}, {}, "axis 't' repeats a value"),
        ({"t": [1.0]}, {"seeds": 0}, "at least one seed, got seeds=0"),
        ({"t": [1.0]}, {"static": ["u"]}, r"static names must be axes, got \['u'\]"),
        ({"t": [1.0]}, {"dims": {}}, "result 'path' has 1 axes of its own, but dims names"),
        (
            {"t": [1.0]},
            {"dims": {**DIMS, "pth": ("i",)}},
            r"dims must name results, got 'pth': the results are \[.*'path'",
        ),
        ({"t": [1.0]}, {"dims": {"path": ("t",)}}, "dims must be names of their own, got 't' for 'path'"),
        ({"t": [1.0]}, {"dims": {"path": ("value",)}}, "dims must be names of their own, got 'value' for 'path'"),
        ({"t": [1.0]}, {"dims": {"path": "i"}}, r"dims must give lists of names, got 'i' for 'path': write \('i',\)"),
        ({"seed": [1.0]}, {}, "axes must have names of their own, got 'seed'"),
        ({"u": [1.0]}, {}, r"must take a key and then u by name, got draw\(key, \*, t, power=1\) \(missing .* 't'\)"),
        ({"t": ["a"]}, {}, r"axis 't' must have numbers, got \['a'\]: name it in static"),
        ({"t": "ab"}, {}, r"axis 't' must be a list of values, got 'ab': write \[...\]"),
        ({"t": np.ones((2, 2))}, {}, r"axis 't' must be a list of values, got shape \(2, 2\)"),
        ({"t": [2**70]}, {}, "integers that fit int64, got .*: turn on jax_enable_x64, or write them as floats"),
        ({"t": [(1, 2), (3, 4)]}, {"static": ["t"]}, "axis 't' must have values that can label a coordinate"),
        ({"t": [(1,), (3, 4)]}, {"static": ["t"]}, "axis 't' must have values that can label a coordinate"),
        ({"t": [1, "a"]}, {"static": ["t"]}, r"can label a coordinate, .* got \[1, 'a'\]: sweep over names"),
        ({"t": [{}, {"a": 1}]}, {"static": ["t"]}, "axis 't' must have values that can be compared, got {}"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_bad_specifications_are_refused_before_the_second_cell(axes, options, message, compiled):
    if not compiled and ("numbers" in message or "integers" in message):
        pytest.skip("such values reach a function with a loop of its own as they are")
    done = []
    options = {"key": KEY, "seeds": 2, "dims": DIMS, "compiled": compiled} | options
    with pytest.raises(ValueError, match=message) as refused:
        sweep(draw, axes, progress=lambda *call: done.append(call[0]), **options)
    assert "\n" not in str(refused.value)
    assert sum(done) == 0


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lambda key, t: t, "a cell must return a dict of named arrays, got .* from .*: return {"),
        (lambda key, t: (t, t), "a cell must return a dict of named arrays, got tuple from"),
        (lambda key, t: {}, "a cell must return a dict of named arrays, got an empty one from"),
        (lambda key, t: {"v": None}, "results must be arrays of numbers, got NoneType for 'v'"),
        (lambda key, t: {"v": {"w": t}}, "results must be arrays of numbers, got dict for 'v'"),
        (lambda key, t: {"v": "x"}, "results must be arrays of numbers, got str for 'v'"),
        (lambda key, t: {"v": key}, "results must be arrays of numbers, got a random key for 'v'"),
        (lambda key, t: {1: t}, "results must have names, got 1 from"),
        (lambda key, t: {"t": t}, "results must not be called like an axis or 'seed', got 't'"),
        (lambda key, t: {"seed": t}, "results must not be called like an axis or 'seed', got 'seed'"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_results_that_no_dataset_can_hold_are_refused_with_the_first_cell(cell, message, compiled):
    done = []
    with pytest.raises(ValueError, match=message):
        sweep(cell, {"t": [1.0, 2.0]}, key=KEY, seeds=2, compiled=compiled, progress=lambda *c: done.append(c[0]))
    assert sum(done) == 0


def test_results_of_two_shapes_are_refused_before_anything_is_computed():
    ran = []

    def cell(key, *, n):
        jax.debug.callback(lambda: ran.append(n))
        return {"v": jnp.ones(n)}

    with pytest.raises(ValueError, match=r"need the same results, got v \(1,\) and v \(2,\) in another cell: pad them"):
        sweep(cell, {"n": [1, 2]}, key=KEY, seeds=1, static=["n"], dims={"v": ("i",)})
    assert ran == []
    two = {"v": ("i",), "w": ("i",)}
    with pytest.raises(ValueError, match=r"dims of one name must be of one size, got 'i' of 2 and of 3 in 'w'"):
        sweep(lambda key: {"v": jnp.ones(2), "w": jnp.ones(3)}, {}, key=KEY, seeds=1, dims=two)


def test_results_unlike_those_in_a_store_are_refused_before_anything_is_computed():
    store = OneView()
    sweep(value, {"t": [1.0]}, key=KEY, seeds=2, store=store)
    with pytest.raises(ValueError, match=r"got value \(\) and path \(3,\), value \(\)|raise the function's version"):
        sweep(draw, {"t": [1.0, 2.0]}, key=KEY, seeds=2, dims=DIMS, store=store)
    assert len(store.rows) == 2


@pytest.mark.parametrize(
    ("cell", "axes", "message"),
    [
        (lambda key, n, t: {"v": t * jnp.ones(n).sum()}, {"t": [1.0]}, r"axis 'n' sets a shape, .*static=\('n',\)\)"),
        (
            lambda key, n: {"v": jnp.ones((n, 2)).sum()},
            {},
            r"axis 'n' sets a shape, so it must be static: sweep\(..., st",
        ),
        (lambda key, n: {"v": jnp.arange(n).sum()}, {}, r"axis 'n' is used as a Python value, so it must be static"),
        (lambda key, n: {"v": 1.0 if n > 2 else 0.0}, {}, r"axis 'n' is used as a Python value, so it must be static"),
        (lambda key, n: {"v": 1.0 * sum(range(n))}, {}, r"axis 'n' is used as a Python value, so it must be static"),
        (lambda key, n: {"v": np.sin(n)}, {}, r"axis 'n' is used as a Python value, so it must be static"),
        (
            lambda key, n, m, s: {"v": jnp.ones((n, m)).sum()},
            {"m": [1], "s": ["a"]},
            r"each of axes 'n', 'm' sets a shape, so they must be static: sweep\(..., static=\('s', 'n', 'm'\)\)",
        ),
    ],
)
def test_an_axis_that_must_be_static_is_named(cell, axes, message):
    static = [name for name in axes if name == "s"]
    axes = {"n": [1, 2]} | axes
    with pytest.raises(ValueError, match=message) as refused:
        sweep(cell, axes, key=KEY, seeds=1, static=static)
    assert "\n" not in str(refused.value)
    assert sweep(cell, axes, key=KEY, seeds=1, static=list(axes)).v.shape == (*map(len, axes.values()), 1)


def test_what_a_cell_raises_of_its_own_is_raised():
    with pytest.raises(ZeroDivisionError):
        sweep(lambda key, t: {"v": 1 / 0}, {"t": [1.0]}, key=KEY, seeds=1)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        sweep(lambda key, t: {"v": 1.0 if jax.random.normal(key) > 0 else t}, {"t": [1.0]}, key=KEY, seeds=1)


@pytest.mark.parametrize("key", [0, None, "0", 1.5, np.zeros(2), jax.random.split(KEY, 2), np.zeros(3, np.uint32)])
def test_anything_but_one_key_is_refused(key):
    with pytest.raises(ValueError, match=r"key must be one random key, got .*: pass jax.random.key\(0\)"):
        root_key(key)


def test_keys_of_the_old_kind_are_keys():
    options = {"axes": {"t": [1.0]}, "seeds": 2}
    expected = sweep(value, key=jax.random.key(5), **options)
    assert sweep(value, key=jax.random.PRNGKey(5), **options).identical(expected)


def test_whole_numbers_of_any_library_count_seeds_and_label_axes():
    expected = sweep(value, {"t": [1.0, 2.0]}, key=KEY, seeds=3)
    axis = [jnp.asarray(1.0), np.float32(2.0)]
    assert sweep(value, {"t": axis}, key=KEY, seeds=seed_list(np.int64(3))).identical(expected)
    with pytest.raises(ValueError, match=r"seeds must be a whole number or a list of them, got 2.0: 10, say"):
        seed_list(2.0)
    with pytest.raises(ValueError, match=r"axis 't' must be a list of values, got 1.0: write \[...\]"):
        points({"t": 1.0}, (), compiled=True)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("device", jax.local_devices())
def test_arrays_and_keys_on_one_device_are_used_on_all(compiled, device):
    def using(weights, other):
        def cell(key, *, t):
            return {"value": t * weights.sum() + jax.random.normal(key), "noise": jax.random.normal(other)}

        return cell

    anywhere = (jnp.arange(3.0), jax.random.key(1), KEY)
    there = jax.device_put(anywhere, device)
    options = {"axes": {"t": [1.0, 2.0]}, "seeds": 3, "compiled": compiled}
    expected = sweep(using(*anywhere[:2]), key=KEY, **options)
    assert sweep(using(*there[:2]), key=there[2], **options).identical(expected)


def test_a_progress_that_fails_costs_no_result():
    def progress(*call):
        calls.append(call)
        raise OSError("no terminal")

    calls = []
    with pytest.warns(UserWarning, match="progress raised OSError: no terminal: the sweep goes on without it"):
        ds = sweep(value, {"t": [1.0]}, key=KEY, seeds=2, progress=progress)
    assert len(calls) == 1
    assert ds.identical(sweep(value, {"t": [1.0]}, key=KEY, seeds=2))


def test_devices_that_share_threads_are_refused_before_they_wait_for_each_other(monkeypatch):
    monkeypatch.delenv("NPROC")
    with pytest.raises(ValueError, match="one XLA thread each, got 2 devices and NPROC=unset: set NPROC=1"):
        sweep(lambda key: {"value": jax.random.normal(key)}, {}, key=jax.random.key(0), seeds=1)
