"""Licences of everything that is installed along, and known vulnerabilities where their service may be asked."""

import os
import re
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.safety.dependencies import audit, closure, licence

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|MPL|Mozilla|PSF|Python|Zlib|HPND|CMU|CC0|Artistic|Unlicense", re.IGNORECASE
)
CUDA = re.compile(r"nvidia-|cuda-")
"""NVIDIA's own terms: they come with torch's wheels and may be used and passed on, not changed."""


def test_every_licence_allows_use_in_a_closed_product(record_property: Callable[[str, object], None]) -> None:
    names = closure()
    assert len(names) > 50
    packages = defaultdict(list)
    for name in names:
        packages["NVIDIA's own" if CUDA.match(name) else licence(name)].append(name)
    lines = [f"{text}: {', '.join(packages[text])}" for text in sorted(packages, key=str.lower)]
    record_property("summary", "licences of what is installed along:\n  " + "\n  ".join(lines))
    assert not {text for text in packages if not PERMISSIVE.search(text)} - {"NVIDIA's own"}
    alone = {n for n in names if re.search(r"A?GPL|General Public|NonCommercial", licence(n))}
    assert all(PERMISSIVE.search(licence(name)) for name in alone), "copyleft only where there is another choice"


@pytest.mark.skipif(
    not os.environ.get("REFINE_OPS_AUDIT"), reason="asks a service; set REFINE_OPS_AUDIT=1 where allowed"
)
def test_no_known_vulnerability(record_property: Callable[[str, object], None]) -> None:
    found = audit()
    record_property("summary", f"pip-audit: {found}")
    assert "known vulnerabilit" not in found or "No known" in found, found
