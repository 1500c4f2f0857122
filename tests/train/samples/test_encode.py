"""The cache: encoded once, safe against kills, and the very conditioning that the refiner computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refine_ops.config import FocusSettings, ImageLimits, ModelSettings
from refine_ops.errors import JobError
from refine_ops.model import stages
from refine_ops.model.refiner import load_refiner
from refine_ops.model.source import ResolvedModel, resolve_model
from refine_ops.train.config import CropSettings, LoraSettings, LossSettings, TrainLoraConfig
from refine_ops.train.denoiser import Denoiser
from refine_ops.train.grid import refine_entry
from refine_ops.train.samples.batches import BatchSpec, unpack_regions
from refine_ops.train.samples.cache import EncodedCache
from refine_ops.train.samples.dataset import make_crop, read_files, read_samples
from refine_ops.train.samples.encode import Planned, SampleEncoder, Skipped, crops_to_encode
from refine_ops.train.samples.encoders import Encoders, load_encoders, load_trainee

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
CROP = CropSettings(geometry=FocusSettings(focus_pixels=64 * 64))
SPEC = BatchSpec(LossSettings(), latent_px=4, target_ring=2, text_multiple=1)


@pytest.fixture(scope="module")
def model() -> ResolvedModel:
    return resolve_model(ModelSettings(model="tiny"))


@pytest.fixture(scope="module")
def encoders(model: ResolvedModel) -> Encoders:
    return load_encoders(model, CPU, torch.float32, target_ring=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), train=4, validation=1)


def _config(dataset: Path, **crop: object) -> TrainLoraConfig:
    return TrainLoraConfig(dataset=str(dataset), out="unused", crop=CROP.model_copy(update=crop))


def _run(
    config: TrainLoraConfig, model: ResolvedModel, cache: EncodedCache, load: Callable[[], Encoders]
) -> list[Planned | Skipped]:
    work = crops_to_encode(read_samples(config.dataset, config.exclude), config)
    return list(SampleEncoder(config, model.preset, "weights 1", cache, load)(work))


def _never() -> Encoders:
    raise AssertionError("the encoders were loaded although everything is encoded")


def test_encoded_once_then_read(tmp_path: Path, dataset: Path, model: ResolvedModel, encoders: Encoders) -> None:
    config = _config(dataset)
    first = _run(config, model, EncodedCache(tmp_path), lambda: encoders)
    assert [type(r) for r in first] == [Planned] * 5
    again = _run(config, model, EncodedCache(tmp_path), _never)
    assert again == first
    # Other geometry or other encoders are other contents.
    with pytest.raises(AssertionError, match="loaded"):
        _run(_config(dataset, region_jitter_px=0, focus=False), model, EncodedCache(tmp_path), _never)
    other = SampleEncoder(config, model.preset, "weights 2", EncodedCache(tmp_path), _never)
    with pytest.raises(AssertionError, match="loaded"):
        list(other(crops_to_encode(read_samples(str(dataset)), config)))


def test_a_shard_without_its_index_is_the_rest_of_a_killed_run(
    tmp_path: Path, dataset: Path, model: ResolvedModel, encoders: Encoders
) -> None:
    config = _config(dataset)
    first = _run(config, model, EncodedCache(tmp_path), lambda: encoders)
    (index,) = tmp_path.glob("*.parquet")
    index.unlink()
    with pytest.raises(AssertionError, match="loaded"):
        _run(config, model, EncodedCache(tmp_path), _never)
    assert _run(config, model, EncodedCache(tmp_path), lambda: encoders) == first
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_equal_pixels_are_stored_once(tmp_path: Path, dataset: Path, model: ResolvedModel, encoders: Encoders) -> None:
    config = _config(dataset, reference_dropout=0.5)
    cache = EncodedCache(tmp_path)
    planned = [r for r in _run(config, model, cache, lambda: encoders) if isinstance(r, Planned)]
    twins = [r for r in planned if r.twin]
    assert twins
    for twin in twins:
        own = next(r for r in planned if r.sample_id == twin.sample_id and not r.twin)
        with_reference, without = cache.entry(own.key), cache.entry(twin.key)
        assert with_reference.target == without.target
        assert (with_reference.images[0], with_reference.images[-1]) == without.images
        assert with_reference.prompt != without.prompt


def test_a_broken_sample_is_left_out_with_its_reason(
    tmp_path: Path, model: ResolvedModel, encoders: Encoders, make_dataset: Callable[..., Path]
) -> None:
    dataset = make_dataset(tmp_path / "data", train=3, validation=0)
    samples = read_samples(str(dataset))
    Path(samples[1].target).write_bytes(b"not an image")
    results = _run(_config(dataset), model, EncodedCache(tmp_path / "cache"), lambda: encoders)
    assert [type(r) for r in results] == [Planned, Skipped, Planned]
    skipped = results[1]
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "image.not_an_image"


def test_regions_survive_packing(tmp_path: Path, dataset: Path, model: ResolvedModel, encoders: Encoders) -> None:
    config = _config(dataset)
    cache = EncodedCache(tmp_path)
    planned = [r for r in _run(config, model, cache, lambda: encoders) if isinstance(r, Planned)]
    for row, sample in zip(planned, read_samples(str(dataset)), strict=True):
        crop = make_crop(sample, read_files(sample, ImageLimits()), CROP, model.preset, ImageLimits())
        mask, support = unpack_regions(cache, cache.entry(row.key))
        assert np.array_equal(mask, crop.conditioning.mask)
        assert np.array_equal(support, crop.conditioning.support)
        assert (support & mask).sum() == mask.sum()
        assert support.sum() > mask.sum()


@pytest.mark.parametrize("targets", ["dense", "sparse"])
def test_refining_from_the_cache_gives_the_refiners_pixels(
    tmp_path: Path, dataset: Path, encoders: Encoders, targets: str
) -> None:
    # The whole training path -- crop, thumbnails, prompt, latents, transformer -- against the refiner's own.
    settings = ModelSettings(model="tiny", device="cpu", targets=targets)
    model = resolve_model(settings)
    cache = EncodedCache(tmp_path)
    planned = [r for r in _run(_config(dataset), model, cache, lambda: encoders) if isinstance(r, Planned)]
    refiner = load_refiner(settings, CPU)
    trainee = load_trainee(model, CPU, torch.float32)
    denoiser = Denoiser(
        trainee.transformer, LoraSettings(rank=2, alpha=2), seed=0, checkpointing="none", compiled=False
    )
    for row, sample in list(zip(planned, read_samples(str(dataset)), strict=True))[:2]:
        crop = make_crop(sample, read_files(sample, ImageLimits()), CROP, model.preset, ImageLimits())
        expected = refiner.refine([replace(crop.conditioning, seed=77)])[0].pixels
        entry = cache.entry(row.key)
        clean = refine_entry(denoiser, trainee, cache, entry, 77, model.preset, SPEC, CPU)
        with torch.no_grad():
            pixels = stages.decode(trainee.vae, clean)[0].numpy()
        np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_jitter_varies_the_crop_and_is_the_same_again(dataset: Path, model: ResolvedModel) -> None:
    settings = CROP.model_copy(update={"variants": 4, "margin_jitter": 0.5, "region_jitter_px": 4})
    sample = read_samples(str(dataset))[0]
    files = read_files(sample, ImageLimits())

    def crops(seed: int) -> list[np.ndarray]:
        return [
            make_crop(sample, files, settings, model.preset, ImageLimits(), variant=v, seed=seed).conditioning.mask
            for v in range(4)
        ]

    first, again = crops(0), crops(0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({m.tobytes() for m in first}) > 1


def test_without_focus_the_crop_is_the_whole_image(dataset: Path, model: ResolvedModel) -> None:
    sample = read_samples(str(dataset))[0]
    settings = CROP.model_copy(update={"focus": False})
    crop = make_crop(sample, read_files(sample, ImageLimits()), settings, model.preset, ImageLimits())
    share = crop.conditioning.mask.mean()
    assert share == pytest.approx(33 * 25 / 96**2, rel=0.15)


def test_excluded_families_are_left_out_and_typing_errors_are_named(dataset: Path) -> None:
    everything = read_samples(str(dataset))
    kept = read_samples(str(dataset), exclude=("smear",))
    assert {f for s in everything for f in s.families} == {"blur", "smear"}
    assert {f for s in kept for f in s.families} == {"blur"}
    with pytest.raises(JobError, match="smaer"):
        read_samples(str(dataset), exclude=("smaer",))


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="build the dataset first"):
        read_samples(str(tmp_path))
