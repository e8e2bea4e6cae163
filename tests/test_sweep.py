import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import sweep
from lazyscope.sweep import Memory

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


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"t": []}, {}, "axis 't' is empty"),
        ({"t": [1.0, 1.0]}, {}, "axis 't' repeats a value"),
        ({"t": [1.0]}, {"seeds": 0}, "at least one seed, got seeds=0"),
        ({"t": [1.0]}, {"static": ["u"]}, r"static names must be axes, got \['u'\]"),
        ({"t": [1.0]}, {"dims": {}}, "result 'path' has 1 axes of its own, but dims names"),
    ],
)
def test_bad_specifications_are_refused(axes, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(draw, axes, **({"key": KEY, "seeds": 2, "dims": DIMS} | options))


def test_devices_that_share_threads_are_refused_before_they_wait_for_each_other(monkeypatch):
    monkeypatch.delenv("NPROC")
    with pytest.raises(ValueError, match="one XLA thread each, got 2 devices and NPROC=unset: set NPROC=1"):
        sweep(lambda key: {"value": jax.random.normal(key)}, {}, key=jax.random.key(0), seeds=1)
