"""Data files against an independent reading of their bytes, augmentation and controls against what they keep and lose,
and every refusal."""

import hashlib
import io
import socket
import struct
import tarfile

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyscope.datasets import (
    cifar10,
    crop_and_flip,
    digit_images,
    gaussian_images,
    photographs,
    shuffled_pixels,
    uniform_noise,
    write_cifar10,
)
from lazyscope.datasets.cifar import ARCHIVE, FOLDER, HELD_OUT, SOURCE, TRAINING

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8), RNG.integers(0, 10, 12)
TEST = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8), RNG.integers(0, 10, 5)


@pytest.fixture
def packed(tmp_path):
    return tmp_path, write_cifar10(tmp_path, TRAIN, TEST)


def unpack(folder):
    with tarfile.open(folder / ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    (folder / ARCHIVE).unlink()


def test_images_come_back_as_they_were_packed(packed):
    folder, checksum = packed
    images = cifar10(folder, dtype=jnp.float64, checksum=checksum)
    pixels = np.asarray(images.train_x) * images.deviation + images.mean
    np.testing.assert_allclose(255 * pixels, TRAIN[0], atol=1e-9)
    np.testing.assert_array_equal(images.train_y, TRAIN[1])
    np.testing.assert_array_equal(images.test_y, TEST[1])
    assert images.train_x.shape == (12, 32, 32, 3)


def test_training_images_have_mean_zero_and_deviation_one_in_every_channel(packed):
    images = cifar10(packed[0], dtype=jnp.float64, checksum=packed[1])
    np.testing.assert_allclose(images.train_x.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(images.train_x.std((0, 1, 2)), 1, rtol=1e-12)


def test_a_pixel_lies_where_the_format_says(packed):
    folder, checksum = packed
    images = cifar10(folder, dtype=jnp.float64, checksum=checksum)
    unpack(folder)
    data = (folder / FOLDER / TRAINING[1]).read_bytes()  # records 3, 4, 5 of 12 over five files
    label, channel, row, column = data[3073], 2, 7, 30
    (byte,) = struct.unpack_from("B", data, 3073 + 1 + channel * 1024 + row * 32 + column)
    assert label == TRAIN[1][4]
    found = images.train_x[4, row, column, channel] * images.deviation[channel] + images.mean[channel]
    np.testing.assert_allclose(255 * found, byte, atol=1e-9)


@pytest.mark.parametrize("inside", [True, False])
def test_unpacked_files_are_read_as_the_archive_is(packed, inside):
    folder, checksum = packed
    expected = cifar10(folder, checksum=checksum)
    unpack(folder)
    found = cifar10(folder / FOLDER if inside else folder)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.train_x.dtype == jnp.float32


def test_missing_data_says_what_was_looked_for_and_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must exist, got .*nowhere.*--data") as error:
        cifar10(tmp_path / "nowhere")
    assert SOURCE in str(error.value)
    with pytest.raises(FileNotFoundError, match=f"looked for {ARCHIVE}, {FOLDER}/{HELD_OUT}"):
        cifar10(tmp_path)


def test_another_checksum_is_refused(packed):
    with pytest.raises(ValueError, match=f"must have the MD5 c32a1d4ab5d03f1284b67883e8d87530, got {packed[1]}"):
        cifar10(packed[0])


def test_archives_cut_short_are_refused(packed):
    folder, _ = packed
    whole = (folder / ARCHIVE).read_bytes()
    for kept in (len(whole) // 2, 40, 3, 0):
        (folder / ARCHIVE).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="cut short or damaged"):
            cifar10(folder, checksum=hashlib.md5(whole[:kept]).hexdigest())


def test_files_cut_short_or_absent_and_labels_beyond_nine_are_refused(packed):
    folder, _ = packed
    unpack(folder)
    file = folder / FOLDER / TRAINING[2]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{TRAINING[2]} must be a whole number of records of 3073 bytes, got"):
        cifar10(folder)
    file.write_bytes(whole[:3073] + bytes([10]) + whole[3074:])
    with pytest.raises(ValueError, match=f"from 0 to 9, got 10 in record 1 of {TRAINING[2]}"):
        cifar10(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"all six files, got no {TRAINING[2]}"):
        cifar10(folder)


def test_members_with_other_names_are_never_read_or_unpacked(tmp_path):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:
        for name in ("../outside.bin", f"/{FOLDER}/{HELD_OUT}", f"{FOLDER}/../{HELD_OUT}"):
            member = tarfile.TarInfo(name)
            member.size = 3073
            archive.addfile(member, io.BytesIO(bytes(3073)))
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match=f"must hold {FOLDER}/{TRAINING[0]}"):
        cifar10(tmp_path, checksum=hashlib.md5((tmp_path / ARCHIVE).read_bytes()).hexdigest())
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_the_writer_refuses_what_the_format_cannot_hold(packed):
    folder, _ = packed
    with pytest.raises(ValueError, match="is there already"):
        write_cifar10(folder, TRAIN, TEST)
    other = folder / "other"
    with pytest.raises(ValueError, match="bytes of shape"):
        write_cifar10(other, (TRAIN[0].astype(float), TRAIN[1]), TEST)
    with pytest.raises(ValueError, match="from 0 to 9, got 11 in record 0 of labels"):
        write_cifar10(other, (TRAIN[0], TRAIN[1] + 11 - TRAIN[1][0]), TEST)
    with pytest.raises(ValueError, match="5 training files, got 4 images"):
        write_cifar10(other, (TRAIN[0][:4], TRAIN[1][:4]), TEST)
    assert not other.exists()


def test_wider_numbers_than_jax_holds_are_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        digit_images(dtype=jnp.float64)


def test_digit_images_are_the_digits_in_blocks():
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = digit_images(dtype=jnp.float64)
    assert images.train_x.shape == (1500, 32, 32, 3)
    np.testing.assert_array_equal(np.concatenate([images.train_y, images.test_y]), labels)
    blocks = np.asarray(images.test_x)[:, ::4, ::4, 1] * images.deviation[1] + images.mean[1]
    np.testing.assert_allclose(16 * blocks.reshape(-1, 64), pixels[1500:], atol=1e-9)
    np.testing.assert_array_equal(images.train_x[:, 1::4, 3::4], images.train_x[:, ::4, ::4])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_patches_put_side_by_side_are_the_photographs_so_that_none_shares_a_pixel(block):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as image:
        whole = [*load_sample_images().images, np.asarray(image)]
    found = photographs(block=block, dtype=jnp.float64)
    assert found.test_x.shape == (0, 32, 32, 3)
    pixels = 255 * (np.asarray(found.train_x) * found.deviation + found.mean)
    for place, photograph in enumerate(whole):
        rows, columns = photograph.shape[0] // (32 * block), photograph.shape[1] // (32 * block)
        patches = pixels[np.asarray(found.train_y) == place]
        assert len(patches) == rows * columns
        sides = np.concatenate([np.concatenate(patches[i * columns :][:columns], axis=1) for i in range(rows)])
        kept = photograph[: rows * 32 * block, : columns * 32 * block].astype(float)
        mean = sum(kept[i::block, j::block] for i in range(block) for j in range(block)) / block**2
        np.testing.assert_allclose(sides, mean, atol=1e-9)


def test_photographs_are_normalised_by_channel_always_the_same_and_need_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    images = photographs(dtype=jnp.float64)
    assert images.train_x.shape == (192, 32, 32, 3)
    np.testing.assert_allclose(images.train_x.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(images.train_x.std((0, 1, 2)), 1, rtol=1e-12)
    np.testing.assert_array_equal(images.train_x, photographs(dtype=jnp.float64).train_x)


@pytest.mark.parametrize("block", [0, 14])
def test_a_photograph_without_a_patch_is_refused(block):
    with pytest.raises(ValueError, match=f"block must be 1 to 13 pixels, got {block}"):
        photographs(block=block)


def colours(images):
    """The pixels of each image, sorted."""
    return np.array([sorted(map(tuple, image.reshape(-1, image.shape[-1]))) for image in np.asarray(images)])


def test_shuffled_pixels_keep_each_image_s_colours_and_one_order_all_inner_products():
    x = jnp.asarray(RNG.standard_normal((4, 5, 6, 3)))
    one, each = (shuffled_pixels(jax.random.key(1), x, one_order=one) for one in (True, False))

    def products(images):
        return np.asarray(images).reshape(4, -1) @ np.asarray(images).reshape(4, -1).T

    for shuffled in (one, each):
        np.testing.assert_array_equal(colours(shuffled), colours(x))
        assert not np.array_equal(shuffled, x)
    np.testing.assert_allclose(products(one), products(x), rtol=1e-12)
    assert not np.allclose(products(each), products(x), atol=0.1)


def test_gaussian_images_have_the_mean_the_covariance_and_no_other_directions():
    x = jnp.asarray(RNG.gamma(1.0, size=(6, 2, 3, 2)))  # six images in twelve dimensions: the covariance has rank five
    drawn = np.asarray(gaussian_images(jax.random.key(2), x, n=40_000)).reshape(-1, 12)
    flat = np.asarray(x).reshape(6, 12)
    covariance = np.cov(flat.T, ddof=0)
    error = np.sqrt(np.diag(covariance).max())
    np.testing.assert_allclose(drawn.mean(0), flat.mean(0), atol=5 * error / 200)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=8 * error**2 / 200)
    assert np.linalg.matrix_rank(drawn - flat.mean(0), tol=1e-6) == 5


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), padding=st.integers(0, 3))
def test_a_crop_is_one_of_the_shifts_of_the_image_or_of_its_mirror(seed, padding):
    x = RNG.standard_normal((3, 5, 4, 2)) + 10  # no pixel is 0, so what was moved in shows
    for image, cropped in zip(
        x, np.asarray(crop_and_flip(jax.random.key(seed), jnp.asarray(x), padding=padding)), strict=True
    ):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        shifts = [padded[i : i + 5, j : j + 4] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
        assert any(np.array_equal(cropped, s) or np.array_equal(cropped, s[:, ::-1]) for s in shifts)


def test_crops_and_flips_are_all_equally_frequent():
    # One pixel of 3 x 3 is set: where it ends tells the shift; with padding 1 it stays inside 9 times of 9.
    x = jnp.zeros((9000, 3, 3, 1)).at[:, 1, 1].set(1.0)
    ends = np.asarray(crop_and_flip(jax.random.key(0), x, padding=1)).reshape(9000, 9).sum(0)
    np.testing.assert_allclose(ends, 1000, atol=5 * np.sqrt(1000))
    with pytest.raises(ValueError, match="padding must be at least 0"):
        crop_and_flip(jax.random.key(0), x, padding=-1)


def test_noise_is_uniform_over_the_pixel_range_before_normalisation():
    mean, deviation = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    noise = uniform_noise(jax.random.key(0), (50, 16, 16, 3), mean=mean, deviation=deviation, dtype=jnp.float64)
    pixels = 255 * (np.asarray(noise) * deviation + mean)
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-9)
    counts = np.bincount(np.round(pixels).astype(int).reshape(-1), minlength=256)
    assert counts.size == 256
    np.testing.assert_allclose(counts, 150, atol=6 * np.sqrt(150))
