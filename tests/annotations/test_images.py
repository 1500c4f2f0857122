"""What an annotation file calls an image is found below the images' root, or nowhere."""

import os

import pytest

from refine_ops import storage
from refine_ops.annotations.images import ImageRoot
from refine_ops.errors import ItemError
from tests.support.annotated import photo


@pytest.fixture
def root(tmp_path) -> ImageRoot:
    photo(tmp_path / "photos" / "a.jpg")
    photo(tmp_path / "photos" / "shoes" / "b 1.jpg")
    photo(tmp_path / "secret.jpg")
    return ImageRoot(str(tmp_path / "photos"))


@pytest.mark.parametrize(
    ("named", "straight"),
    [
        ("a.jpg", True),
        ("./a.jpg", True),
        ("/data/local-files/?d=a.jpg", True),
        ("/data/upload/3/1f2e3d4c-a.jpg", False),
        ("/home/somebody/photos/a.jpg", False),
        ("C:\\Users\\somebody\\a.jpg", False),
        ("..\\images\\a.jpg", False),
        ("../../etc/a.jpg", False),
        ("https://example.org/x/a.jpg?size=9", False),
        ("s3://some-bucket/x/a.jpg", False),
        ("train/a.jpg", False),
    ],
)
def test_relative_and_s3_paths_are_looked_up_below_the_root(named: str, straight: bool, root: ImageRoot) -> None:
    assert root.find(named) == (f"{root.uri}/a.jpg", straight)


def test_spaces_folders_and_whole_paths(root: ImageRoot) -> None:
    expected = f"{root.uri}/shoes/b 1.jpg"
    for named in ("shoes/b 1.jpg", expected, "/data/local-files/?d=shoes/b%201.jpg", "shoes\\b 1.jpg"):
        assert root.find(named) == (expected, True)
    assert root.find("b 1.jpg", f"{root.uri}/shoes") == (expected, True)
    assert root.find("b 1", f"{root.uri}/shoes", suffixes=(".png", ".jpg")) == (expected, True)


@pytest.mark.parametrize(
    "named", ["", "secret.jpg", "../secret.jpg", "..", "/", "shoes", "a.jpg\n", "a" * 5000, "a\0b"]
)
def test_nothing_outside_the_root_is_found(named: str, root: ImageRoot) -> None:
    with pytest.raises(ItemError):
        root.find(named)


def test_a_link_that_leads_out_of_the_root_is_not_followed(root: ImageRoot, tmp_path) -> None:
    os.symlink(tmp_path / "secret.jpg", tmp_path / "photos" / "link.jpg")
    with pytest.raises(ItemError, match="no such image"):
        root.find("link.jpg")


def test_no_address_is_asked_for_and_no_other_bucket(root: ImageRoot, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("socket.socket.connect", lambda *a: asked.append("network"))
    monkeypatch.setattr(storage, "exists", asked.append)
    for named in ("http://169.254.169.254/latest/a.png", "s3://other/secret.png"):
        with pytest.raises(ItemError):
            root.find(named)
    assert not asked


def test_below_a_prefix_in_s3_only_that_prefix_is_asked(monkeypatch) -> None:
    asked: list[str] = []

    def there(uri: str) -> bool:
        asked.append(uri)
        return uri == "s3://shop/photos/shoes/b.jpg"

    monkeypatch.setattr(storage, "exists", there)
    root = ImageRoot("s3://shop/photos/")
    assert root.find("s3://shop/photos/shoes/b.jpg") == ("s3://shop/photos/shoes/b.jpg", True)
    assert root.find("shoes/b.jpg") == ("s3://shop/photos/shoes/b.jpg", True)
    assert root.find("s3://other/x/shoes/b.jpg") == ("s3://shop/photos/shoes/b.jpg", False)
    with pytest.raises(ItemError):
        root.find("../../secret/b.jpg")
    assert asked
    assert all(uri.startswith("s3://shop/photos/") for uri in asked)
