"""The bundled tiny checkpoint: loads with the stock classes, starts at "change nothing", and is what its card says."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageEditPlusPipeline
from PIL import Image

from refine_ops.data.demo.material import __file__ as demo_file
from refine_ops.data.synthetic.prompts import all_prompts
from refine_ops.model import tiny
from refine_ops.model.network import vae as one_frame
from refine_ops.model.tiny import shapes, tokenizer
from refine_ops.train.tiny import assemble, vae_start

torch.set_num_threads(1)
MIB = 2**20


def photo_crops(side: int = 128) -> torch.Tensor:
    """Crops of the demo's photos, which no part of the checkpoint was trained on: `(8, 3, side, side)` in [-1, 1]."""
    folder = assemble.Path(demo_file).parent
    crops = []
    for path in sorted(folder.glob("*.jpg")):
        image = np.asarray(Image.open(path))
        for y, x in ((40, 60), (image.shape[0] - side - 8, image.shape[1] - side - 40)):
            crops.append(image[y : y + side, x : x + side])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean() / 4))


@pytest.fixture(scope="module")
def pipeline() -> QwenImageEditPlusPipeline:
    return QwenImageEditPlusPipeline.from_pretrained(tiny.WEIGHTS, torch_dtype=torch.float32, local_files_only=True)


def test_the_folder_is_small_and_its_shards_fit() -> None:
    sizes = {path: path.stat().st_size for path in tiny.WEIGHTS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 32 * MIB
    assert max(sizes.values()) <= 15 * MIB


def test_stock_pipeline_runs_it(pipeline: QwenImageEditPlusPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus"
    monkeypatch.setattr(f"{module}.CONDITION_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(f"{module}.VAE_IMAGE_SIZE", 128 * 128)
    crop = photo_crops()[0]
    image = Image.fromarray(((crop.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
    result = pipeline(
        image=[image, Image.new("RGB", (128, 128))], prompt="Refine the details of the object.", height=128, width=128,
        num_inference_steps=tiny.STEPS, true_cfg_scale=tiny.TRUE_CFG_SCALE, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    # Nothing is marked, so nothing should change but what the VAE loses.
    assert psnr(result * 2 - 1, crop) > 22


def test_template_is_dropped_exactly(pipeline: QwenImageEditPlusPipeline) -> None:
    system = tokenizer.template().split("{}")[0]
    ids = pipeline.tokenizer(system)["input_ids"]
    assert len(ids) == pipeline.prompt_template_encode_start_idx
    assert tokenizer.template() == pipeline.prompt_template_encode


@pytest.mark.parametrize("text", ["Refine the logo.", "Schärfe das Etikett", "重绘标志", "a\u0000b 🙂"])
def test_any_text_survives_the_tokenizer(pipeline: QwenImageEditPlusPipeline, text: str) -> None:
    assert pipeline.tokenizer.decode(pipeline.tokenizer(text)["input_ids"]) == text


def test_the_same_prompts_give_the_same_tokenizer(pipeline: QwenImageEditPlusPipeline) -> None:
    again = tokenizer.new_tokenizer(all_prompts())
    assert again.get_vocab() == pipeline.tokenizer.get_vocab()


def test_one_frame_vae_equals_the_video_vae(pipeline: QwenImageEditPlusPipeline) -> None:
    images = photo_crops(64)[:2]
    fast = AutoencoderKLQwenImage.from_config(pipeline.vae.config)
    fast.load_state_dict(pipeline.vae.state_dict())
    one_frame.as_one_frame(fast.eval())
    with torch.no_grad():
        slow = pipeline.vae.encode(images.unsqueeze(2)).latent_dist.mode()
        quick = one_frame.encode(fast, images)
        torch.testing.assert_close(quick, slow[:, :, 0], atol=1e-4, rtol=1e-4)
        decoded = pipeline.vae.decode(slow).sample[:, :, 0]
        torch.testing.assert_close(one_frame.decode(fast, quick).clamp(-1, 1), decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.long
def test_vae_keeps_held_out_photos(pipeline: QwenImageEditPlusPipeline) -> None:
    images = photo_crops()
    with torch.no_grad():
        restored = pipeline.vae.decode(pipeline.vae.encode(images.unsqueeze(2)).latent_dist.mode()).sample[:, :, 0]
    assert psnr(restored, images) > 32


@pytest.mark.long
def test_vae_starts_as_a_patch_transform() -> None:
    images = photo_crops()
    vae = shapes.new_vae()
    untrained = psnr(one_frame.decode(vae, one_frame.encode(one_frame.as_one_frame(vae), images)).detach(), images)
    vae_start.start(vae, images)
    with torch.no_grad():
        started = psnr(one_frame.decode(vae, one_frame.encode(vae, images)), images)
    assert started > 20 > untrained + 5


@pytest.mark.parametrize("images", [3, 4])
@pytest.mark.parametrize("sigma", [1.0, 0.75, 0.5])
def test_transformer_starts_at_changing_nothing(images: int, sigma: float) -> None:
    """Rectified flow towards the crop itself is v = (x_t - z_crop) / sigma; the start is within 1 % of it."""
    model = assemble.new_transformer()
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randn(1, 256, shapes.TOKEN_CHANNELS, generator=generator) for _ in range(images)]
    noisy, conditions = tokens[0], tokens[1:]
    text = torch.randn(1, 30, shapes.TEXT_CHANNELS, generator=generator)
    with torch.no_grad():
        velocity = model(
            torch.cat([noisy, *conditions], 1), text, None, torch.tensor([sigma]), [[(1, 16, 16)] * images],
            return_dict=False,
        )[0][:, :256]  # fmt: skip
    expected = (noisy - conditions[0]) / sigma
    assert (velocity - expected).square().mean() < 0.01 * expected.square().mean()


def test_card_figures_come_from_the_file_beside_it() -> None:
    card = (tiny.WEIGHTS / "README.md").read_text()
    for row in json.loads((tiny.WEIGHTS / "figures.json").read_text()):
        assert f"{row['psnr']:.2f} [{row['psnr_low']:.2f}, {row['psnr_high']:.2f}]" in card
