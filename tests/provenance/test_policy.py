"""What the settings say becomes of a source's Content Credentials."""

import numpy as np
import pytest

from refine_ops.chain import refine_image
from refine_ops.config import ProvenanceSettings, RefineSettings, pixel_settings
from refine_ops.errors import ItemError
from refine_ops.opened import open_item
from refine_ops.records import Item, Region
from tests.image.formats.test_credentials import SIGNED
from tests.support.made_files import jpeg, picture, with_segments
from tests.support.pixels import KnownRefiner

REFUSE = RefineSettings(provenance=ProvenanceSettings(existing="refuse"))
ITEM = Item("a", "a.img", "a.img", (Region("r", "Refine it", box=(30, 3, 44, 12)),), row=0)


@pytest.mark.parametrize("kind", SIGNED)
def test_a_signed_source_is_refused_before_the_model_runs_where_so_asked(kind: str) -> None:
    with pytest.raises(ItemError, match=r"provenance\.existing") as refused:
        open_item(ITEM, {"a.img": SIGNED[kind]()}, REFUSE)
    assert refused.value.reason == "provenance.refused"
    assert open_item(ITEM, {"a.img": SIGNED[kind]()}, RefineSettings()).source.file.credentials()


def test_a_source_without_credentials_is_not_refused() -> None:
    plain = jpeg(picture(np.random.default_rng(1), 80, 64), "420")
    assert open_item(ITEM, {"a.img": plain}, REFUSE).source.width == 80


def test_the_default_leaves_fingerprints_as_earlier_releases_made_them() -> None:
    assert "provenance" not in pixel_settings(RefineSettings())
    assert pixel_settings(REFUSE)["provenance"]["existing"] == "refuse"


@pytest.mark.parametrize(
    "link", [b' dcterms:provenance="https://cai.example/m"/>', b"><dcterms:provenance>http://a</dcterms:provenance>"]
)
def test_a_credential_that_lies_elsewhere_is_neither_fetched_nor_taken_for_none(link: bytes) -> None:
    def linking(statement: bytes) -> bytes:
        held = b"http://ns.adobe.com/xap/1.0/\0<rdf:Description" + statement
        return with_segments(jpeg(picture(np.random.default_rng(1), 80, 64), "420"), (0xE1, held))

    data = linking(link)
    for existing in ("refuse", "resign"):
        asked = RefineSettings(provenance=ProvenanceSettings(existing=existing))
        with pytest.raises(ItemError, match="nothing is fetched") as refused:
            open_item(ITEM, {"a.img": data}, asked)
        assert refused.value.reason == "provenance.remote_credential"
    done = refine_image(ITEM, {"a.img": data}, KnownRefiner(), RefineSettings())
    assert b"dcterms:provenance" not in done.data, "who follows it finds a credential of other pixels"
    assert done.verification.credentials_removed
    inside = linking(link.replace(b"https://", b"self#jumbf=c2pa/").replace(b"http://", b"self#jumbf=c2pa/"))
    assert open_item(ITEM, {"a.img": inside}, REFUSE)
