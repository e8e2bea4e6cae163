"""Training in epochs against a plain loop, its resumption, and what image nets do as the output scale grows."""

import tarfile
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from lazyscope import Problem, cross_entropy, square_loss
from lazyscope.datasets import photographs, write_cifar10
from lazyscope.dynamics import centred_training, train_in_epochs
from lazyscope.papers.figure import Trials
from lazyscope.papers.image_nets import gates, kernel_spectra, training
from lazyscope.papers.image_nets.training import Deep, load_state, save_state, small_net
from lazyscope.tangent import jacobian
from lazyscope.vision import layers, network

KEY = jax.random.key(3)


@cache
def net(activation=layers.relu, pool=layers.max_pool) -> Any:
    return network(layers.sequence([layers.conv(3), activation(), pool(), layers.dense(4)]), (4, 4, 2))


@cache
def data(targets="one-hot") -> Any:
    keys = jax.random.split(KEY, 2)
    x = jax.random.normal(keys[0], (14, 4, 4, 2))
    labels = jnp.arange(14) % 4
    y, loss = (labels, cross_entropy) if targets == "labels" else (jax.nn.one_hot(labels, 4, dtype=float), square_loss)
    return Problem(x[:10], y[:10], x[10:], y[10:], loss)


def train(problem=None, **options):
    settings = {"alpha": 5.0, "rate": lambda epoch: 0.1 / (1 + epoch / 3), "epochs": 3, "batch": 4, "key": KEY}
    params0 = net().init(jax.random.key(1), 1.0)
    return train_in_epochs(net().difference, params0, problem or data(), **settings | options)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["one-hot", "labels"])
def test_epochs_are_those_of_a_plain_loop_on_the_scaled_objective(targets):
    """Heavy ball on F_alpha in the weights themselves, no differences, no optax."""
    problem, alpha = data(targets), 5.0
    params0 = net().init(jax.random.key(1), 1.0)

    @jax.jit
    def gradient(w, x, y):
        def objective(w):
            return problem.loss(alpha * (net().apply(w, x) - net().apply(params0, x)), y) / alpha**2

        return jax.grad(objective)(w)

    w, velocity = params0, jax.tree.map(jnp.zeros_like, params0)
    for epoch in range(3):
        key_order, _ = jax.random.split(jax.random.fold_in(KEY, epoch))
        order = jax.random.permutation(key_order, 10)
        for first in (0, 4, 8):
            chosen = order[first : first + 4]
            slope = gradient(w, problem.x[chosen], problem.y[chosen])
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope)
            rate = 0.1 / (1 + epoch / 3)
            w = jax.tree.map(lambda leaf, v, rate=rate: leaf - rate * v, w, velocity)
    state = train(problem)
    found = jax.tree.map(lambda leaf, u: leaf + u / alpha, params0, state.centred.u)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    outputs = alpha * (net().apply(w, problem.x_test) - net().apply(params0, problem.x_test))
    np.testing.assert_allclose(state.history.outputs, outputs, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(state.history.loss[-1, 1], problem.loss(outputs, problem.y_test), rtol=1e-8)
    right = np.argmax(np.asarray(outputs), axis=1) == np.arange(10, 14) % 4
    assert state.history.accuracy[-1, 1] == np.mean(right)
    gates0, gates = (jax.tree.leaves(net().gates(p, problem.x_test)) for p in (params0, w))
    expected = [np.mean(np.asarray(a) == np.asarray(b)) for a, b in zip(gates0, gates, strict=True)]
    np.testing.assert_allclose(state.history.stability[-1, 0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(state.history.stability[-1, 1], expected[1], atol=2 / gates[1].size)  # ties of zeros


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    whole = train()

    class KilledError(Exception):
        """The end of a process."""

    def keep_and_die(state):
        save_state(tmp_path / "state.npz", state)
        if state.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(keep=keep_and_die)
    resumed = train(restore=lambda start: load_state(tmp_path / "state.npz", start))
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "state.npz"
    train(epochs=1, keep=lambda state: save_state(file, state))
    with pytest.raises(ValueError, match="is the checkpoint of another run: remove it"):
        train(epochs=2, restore=lambda start: load_state(file, start))
    assert load_state(tmp_path / "none.npz", train(epochs=1)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive, or inf"),
        ({"batch": 11}, "a batch holds 1 to 10"),
        ({"problem": Problem(*(data().x, data().y))}, "needs held-out data"),
        ({"problem": Problem(data().x.astype(jnp.float32), data().y, data().x_test, data().y_test)}, "of one type"),
    ],
)
def test_bad_trainings_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        train(**options)
    assert "\n" not in str(error.value)


def ends(activation, pool, alphas):
    """Outputs after 60 steps of descent at each alpha and for the linearised net (last), and gates that flipped."""
    model, problem = net(activation, pool), data()
    params0 = model.init(jax.random.key(1), 1.0)
    training = centred_training(model.difference, loss=square_loss, optimizer=optax.sgd(0.05))
    outputs, flipped = [], []
    for e in (*(1 / np.array(alphas)), 0.0):
        state = training.start(params0)
        for _ in range(60):
            state, _ = training.advance(state, params0, problem.x, problem.y, e)
        found, kept = jax.jit(model.difference)(params0, state.u, problem.x, e)
        outputs.append(np.asarray(found))
        flipped.append(sum(int(np.sum(~np.asarray(leaf))) for leaf in jax.tree.leaves(kept)))
    gaps = [np.linalg.norm(f - outputs[-1]) / np.linalg.norm(outputs[-1]) for f in outputs[:-1]]
    return np.array(gaps), np.array(flipped[:-1])


def test_without_kinks_the_gap_to_the_linearisation_falls_as_one_over_alpha():
    alphas = (30.0, 100.0, 300.0, 1000.0)
    gaps, _ = ends(layers.softplus, layers.mean_pool, alphas)
    slope = np.polyfit(np.log(alphas), np.log(gaps), 1)[0]
    assert abs(slope + 1) < 0.1


def test_with_kinks_the_gap_falls_and_as_one_over_alpha_beyond_the_last_flip():
    alphas = 10.0 ** np.arange(0, 8)
    gaps, flipped = ends(layers.relu, layers.max_pool, alphas)
    assert np.all(np.diff(gaps) < 0)
    assert np.all(np.diff(flipped) <= 0)
    assert flipped[0] > 0
    beyond = alphas[flipped == 0]
    assert beyond.size >= 3
    slope = np.polyfit(np.log(beyond), np.log(gaps[flipped == 0]), 1)[0]
    assert abs(slope + 1) < 0.1


def spectra(kind, **options):
    settings = {"net": small_net, "factor": 1 / 4, "gain": 2.0, "images": 3, "cifar": False}
    return kernel_spectra.spectra(KEY, kind=kind, **settings | options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real", "shuffled"])
def test_the_spectrum_is_that_of_a_dense_jacobian_product(kind):
    found = spectra(kind)
    key_init, key_choice, key_control = jax.random.split(KEY, 3)
    x = photographs().train_x[jax.random.choice(key_choice, 192, (3,), replace=False)].astype(float)
    if kind == "shuffled":
        x = x.reshape(3, -1, 3)[:, jax.random.permutation(key_control, 1024)].reshape(x.shape)
    model = small_net(factor=1 / 4)
    rows = np.asarray(jacobian(model.apply, model.init(key_init, 2.0), x)).reshape(30, -1)
    expected = np.linalg.eigvalsh(rows @ rows.T)[::-1]
    np.testing.assert_allclose(found["eigenvalues"], expected, rtol=1e-9, atol=1e-12 * expected[0])
    np.testing.assert_allclose(found["effective_rank"], expected.sum() ** 2 / (expected**2).sum(), rtol=1e-9)


def test_spectra_of_cifar_need_its_folder():
    with pytest.raises(ValueError, match="CIFAR-10 must be in a folder, got none"):
        spectra("real", cifar=True)


def test_a_cell_takes_cifar_from_its_folder(tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 32, 32, 3), np.uint8), random.integers(0, 10, 20)
    write_cifar10(tmp_path, (images, labels), (images[:6], labels[:6]))
    deep = Deep(cifar=True, held_out=4)
    with pytest.raises(ValueError, match="must have the MD5"):
        deep.images(tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    next(tmp_path.glob("*.tar.gz")).unlink()
    found = deep.images(tmp_path)
    assert found.train_x.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(found.test_y, labels[:4])


@pytest.mark.slow
def test_interrupted_cells_go_on_from_their_checkpoint(tmp_path, monkeypatch):
    deep = Deep(net=small_net, factor=1 / 4, examples=16, held_out=8, epochs=2, batch=8, rate=0.002)
    whole = training.trained(KEY, alpha=3.0, deep=deep)
    saved = []

    def die(file, state):
        save_state(file, state)
        saved.append(file)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", die)
    with pytest.raises(KeyboardInterrupt):
        training.trained(KEY, alpha=3.0, deep=deep, checkpoints=tmp_path)
    assert saved[0].is_file()
    monkeypatch.undo()
    resumed = training.trained(KEY, alpha=3.0, deep=deep, checkpoints=tmp_path)
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)
    assert list(tmp_path.iterdir()) == []


def test_a_net_of_fewer_layers_is_judged_by_its_own(monkeypatch):
    shares = {2: [0.9, 0.5], 4: [0.8, 0.7, 0.6, 0.5]}

    def trainings(deep, alphas, trials):
        layers = np.tile(shares[deep.epochs], (len(alphas), 3, 1))
        outputs = np.ones((len(alphas), 3, 2, 1))
        return xr.Dataset(
            {
                "stability": (("alpha", "seed", "layer"), layers),
                "outputs": (("alpha", "seed", "image", "class"), outputs),
            },
            {"alpha": list(alphas)},
        )

    monkeypatch.setattr(training, "trainings", trainings)
    runs = training.Runs(tuple((f"net {n}", Deep(epochs=n)) for n in shares), (1.0, 1e7))
    ds = training.at_every_scale(runs, Trials(KEY, 3))
    np.testing.assert_allclose(gates.depth(ds).isel(alpha=0), min(0.9 - 0.5, 0.75 - 0.55))
    np.testing.assert_allclose(gates.least_stable(ds).isel(alpha=0, seed=0), [0.5, 0.5])
    columns = [f"{name}, {what}" for name, n in (("net 2", 2), ("net 4", 4)) for what in ("mean", *_layers(n))]
    assert gates.numbers(ds)[0] == ["alpha", *columns]
    assert np.all(ds.gap == 0)


def _layers(count):
    return [f"layer {i + 1}" for i in range(count)]
