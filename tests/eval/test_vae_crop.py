"""Fig. 3 on the bundled VAE and on another class, and its chart."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import diffusers
import numpy as np
import pytest
import torch

from refine_ops.errors import JobError
from refine_ops.eval.config import VaeCropConfig
from refine_ops.eval.stats import Interval
from refine_ops.eval.tables.plot import curves_svg
from refine_ops.eval.vae_crop import open_vae, reconstruct, vae_crop

CPU = torch.device("cpu")


def test_small_regions_are_reconstructed_better_from_their_crop(tmp_path: Path) -> None:
    config = VaeCropConfig(out=str(tmp_path), pixels=96 * 96, shares=(0.2, 1.0), regions=2)
    small, whole = vae_crop(config)
    assert small.gain.mean > 1
    assert small.crop.mean > small.whole.mean
    assert whole.gain.mean == pytest.approx(0, abs=0.01), "a crop of everything is the image itself"
    table = (tmp_path / "table.md").read_text()
    assert "| 20% |" in table
    assert "budget 9,216 pixels, 4 images x 2 regions" in table
    assert [r["share"] for r in json.loads((tmp_path / "table.json").read_text())] == [0.2, 1.0]
    drawn = ET.fromstring((tmp_path / "plot.svg").read_text())
    assert sum(e.tag.endswith("circle") for e in drawn.iter()) == 4


def test_a_named_vae_of_another_class_takes_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae-alone")
    opened, pixels = open_vae(VaeCropConfig(model=str(tmp_path / "vae-alone"), out="x"), CPU)
    assert pixels == 1024**2
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    made = reconstruct(opened, [image], CPU)[0]
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = vae.eval().decode(vae.encode(x).latent_dist.mode()).sample[0].permute(1, 2, 0)
    assert np.abs(made - ((expected.clamp(-1, 1) + 1) * 127.5).round().numpy()).max() <= 1


def test_what_is_no_vae_or_no_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such folder"):
        vae_crop(VaeCropConfig(model="org/name", out=str(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="cannot be opened as AutoModel"):
        vae_crop(VaeCropConfig(model=str(tmp_path / "empty"), out=str(tmp_path)))
    with pytest.raises(JobError, match="holds no image"):
        vae_crop(VaeCropConfig(images=str(tmp_path / "empty"), out=str(tmp_path)))


def test_own_images_are_taken_from_a_folder(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (80, 100, 3)).astype(np.uint8)
    (tmp_path / "own").mkdir()
    cv2.imwrite(str(tmp_path / "own" / "a.png"), cv2.GaussianBlur(image, (0, 0), 2))
    (tmp_path / "own" / "notes.txt").write_text("no image")
    config = VaeCropConfig(images=str(tmp_path / "own"), out=str(tmp_path), pixels=64 * 64, shares=(0.5,), regions=1)
    (only,) = vae_crop(config)
    assert (only.gain.n_cases, only.gain.low) == (1, -np.inf)


def test_labels_cannot_break_the_chart() -> None:
    points = [Interval(1.0, -np.inf, np.inf, 1, 1), Interval(2.0, 1.5, 2.5, 3, 3)]
    drawn = curves_svg("<script>", "x & y", "dB", [0.1, 0.2], {"<b>": points})
    ET.fromstring(drawn)
    assert "<script>" not in drawn
