"""What the settings ask for where a source has Content Credentials, and what a refined file says of itself."""

from refine_ops.config import ProvenanceSettings
from refine_ops.errors import ItemError
from refine_ops.image.source import Source


def check(source: Source, settings: ProvenanceSettings) -> None:
    """Before anything is refined.

    Raises:
        ItemError: `provenance.refused` -- the source has Content Credentials, and those are to be left alone.
    """
    if settings.existing == "refuse" and source.file.credentials():
        raise ItemError(
            "provenance.refused",
            f"{source.name}: it has Content Credentials (C2PA), which no edit keeps valid; leave this item out, or set "
            "provenance.existing to 'strip'",
        )
