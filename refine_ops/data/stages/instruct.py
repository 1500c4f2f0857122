"""Stage 6, instruct: the instruction y, explicit about the region (sections 4.1 iv and 4.2 iv).

The first template of each language is the paper's form; the others keep the meaning and vary the words.
"""

from typing import Literal

import numpy as np

from refine_ops.data.config import InstructSettings, Language

_FREE: dict[Language, tuple[str, ...]] = {
    "en": (
        "Refine {object} in the masked region.",
        "Restore the fine details of {object} inside the mask.",
        "Repair {object} where the mask marks it and leave everything else as it is.",
        "Fix the distorted {object} in the marked area.",
    ),
    "zh": ("修复蒙版区域内的{object}。", "恢复标记区域中{object}的细节，其余部分保持不变。"),
    "de": (
        "Verbessere {object} im maskierten Bereich.",
        "Stelle die feinen Details von {object} innerhalb der Maske wieder her.",
    ),
    "es": (
        "Refina {object} en la región enmascarada.",
        "Restaura los detalles finos de {object} dentro de la máscara.",
    ),
    "fr": ("Affine {object} dans la zone masquée.", "Restaure les détails fins de {object} à l'intérieur du masque."),
    "ja": ("マスク領域内の{object}を修復してください。", "マスクされた部分の{object}の細部を復元してください。"),
}
_REFERENCE: dict[Language, tuple[str, ...]] = {
    "en": (
        "Refine {object} in the masked region to match the reference image.",
        "Restore {object} inside the mask so that it looks as in the reference.",
        "Using the reference, repair the details of {object} in the marked area.",
    ),
    "zh": ("参考参考图，修复蒙版区域内的{object}。", "根据参考图恢复标记区域中{object}的细节。"),
    "de": (
        "Verbessere {object} im maskierten Bereich nach dem Referenzbild.",
        "Stelle {object} innerhalb der Maske so wieder her, wie die Referenz es zeigt.",
    ),
    "es": (
        "Refina {object} en la región enmascarada según la imagen de referencia.",
        "Restaura {object} dentro de la máscara tal como aparece en la referencia.",
    ),
    "fr": (
        "Affine {object} dans la zone masquée d'après l'image de référence.",
        "Restaure {object} à l'intérieur du masque tel que le montre la référence.",
    ),
    "ja": ("参照画像に合わせて、マスク領域内の{object}を修復してください。",),
}


def instruct(
    description: str, setting: Literal["reference", "free"], settings: InstructSettings, rng: np.random.Generator
) -> str:
    """An instruction about `description`, in a language drawn by weight, from a template drawn evenly."""
    languages = list(settings.languages)
    weights = np.array([settings.languages[name] for name in languages])
    language = languages[int(rng.choice(len(languages), p=weights / weights.sum()))]
    templates = (_REFERENCE if setting == "reference" else _FREE)[language]
    return templates[int(rng.integers(len(templates)))].replace("{object}", description)
