"""References found in a whole picture: several instances, in their pose, with how blurred they are; nothing else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from refine_ops.config import ImageLimits
from refine_ops.detect.finding.config import FindLike
from refine_ops.detect.finding.like import LikeFinder, read_references
from refine_ops.errors import JobError
from refine_ops.image.registration.frames import project


def badge() -> Image.Image:
    """A cut-out logo: on transparent ground, with a border that shows nothing."""
    logo = Image.new("RGBA", (140, 110), (0, 0, 0, 0))
    pen = ImageDraw.Draw(logo)
    pen.rounded_rectangle((10, 10, 130, 100), 18, fill=(250, 240, 210, 255))
    pen.polygon([(30, 85), (55, 25), (80, 85)], fill=(180, 30, 40, 255))
    pen.ellipse((75, 30, 118, 73), fill=(30, 60, 160, 255))
    pen.line((25, 92, 115, 92), fill=(20, 20, 20, 255), width=5)
    return logo


def ring() -> Image.Image:
    logo = Image.new("RGB", (100, 100), (255, 255, 255))
    pen = ImageDraw.Draw(logo)
    pen.ellipse((10, 10, 90, 90), outline=(0, 130, 60), width=14)
    pen.rectangle((44, 20, 56, 80), fill=(240, 150, 0))
    return logo


def wall() -> Image.Image:
    rough = np.random.default_rng(3).normal(120, 25, (60, 80, 3))
    return Image.fromarray(np.uint8(cv2.resize(rough, (400, 300), interpolation=cv2.INTER_CUBIC).clip(0, 255)))


@pytest.fixture(scope="module")
def brand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brand")
    badge().save(folder / "badge.png")
    ring().save(folder / "ring.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_each_instance_is_found_in_its_pose_and_says_whether_it_is_blurred(brand: Path) -> None:
    picture = wall()
    logo = badge()
    turned = logo.resize((98, 77), Image.Resampling.LANCZOS).rotate(18, Image.Resampling.BICUBIC, expand=True)
    picture.paste(turned, (30, 40), turned)
    picture.paste(logo, (220, 150), logo)
    image = np.array(picture)
    soft = cv2.GaussianBlur(image, (0, 0), 2.5)
    image[140:270, 205:375] = soft[140:270, 205:375]
    finder = LikeFinder(FindLike(references=str(brand)), read_references(str(brand), ImageLimits()))
    assert list(finder.classes) == ["badge", "ring"]
    left, right = sorted(finder.find(image), key=lambda one: one.quad[:, 0].min())
    assert {left.name, right.name} == {"badge"}, "nobody printed the ring"
    assert right.reference == str(brand / "badge.png")
    assert np.abs(right.quad - [[230, 160], [350, 160], [350, 250], [230, 250]]).max() < 4, (
        "what it shows, not its file"
    )
    assert right.pose is not None
    assert np.abs(project(right.pose, np.array([[70.0, 55.0]])) - [290, 205]).max() < 3
    assert left.pose is not None
    assert np.rad2deg(np.arctan2(left.pose[1, 0], left.pose[0, 0])) == pytest.approx(-18, abs=3)
    assert right.softness is not None
    assert left.softness is not None
    assert left.softness < 0.5 < right.softness


def test_references_that_cannot_be_used_are_refused(brand: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for said in ("holds no picture", "two references are named 'badge'", "not an image"):
        with pytest.raises(JobError, match=said):
            read_references(str(tmp_path), ImageLimits())
        if said == "holds no picture":
            badge().save(tmp_path / "badge.png")
            badge().save(tmp_path / "more/badge.png")
        else:
            (tmp_path / "more/badge.png").write_bytes(b"no image at all")
    assert [one.name for one in read_references(str(brand / "ring.png"), ImageLimits())] == ["ring"]
