"""Settings of a vision-language model: behind an endpoint, or run here."""

from typing import Annotated, Literal

from pydantic import Field

from refine_ops.config import AllowHub, PretrainedModel, Settings


class OpenAiVlm(Settings):
    """A vision-language model behind an OpenAI-compatible endpoint.

    URL, key and model come from `REFINE_VLM_BASE_URL`, `REFINE_VLM_API_KEY` and `REFINE_VLM_MODEL`; the key from
    nowhere else. Prices only label the cost; without them the cost is not stated.
    """

    kind: Literal["openai"] = "openai"
    base_url: str | None = Field(None, description="Overrides REFINE_VLM_BASE_URL, e.g. https://host/v1.")
    model: str | None = Field(None, description="Overrides REFINE_VLM_MODEL.")
    timeout_s: float = Field(90.0, gt=0, description="One request, from connecting to the last byte.")
    requests: int = Field(6, ge=1, description="Requests per question before the endpoint counts as down.")
    backoff_s: float = Field(1.0, ge=0, description="First pause after 429 or 5xx; doubles, Retry-After is honoured.")
    max_tokens: int = Field(1024, ge=16)
    max_side_px: int = Field(1024, ge=64, description="Longer images are shrunk before they are sent.")
    cache: str | None = Field(None, description="Folder of cached answers (local or s3://); default: the user's cache.")
    usd_per_million_input_tokens: float | None = Field(None, ge=0)
    usd_per_million_output_tokens: float | None = Field(None, ge=0)


class LocalVlm(Settings):
    """A vision-language model run here through transformers (Qwen2.5-VL, Qwen3-VL, or any image-text-to-text class)."""

    kind: Literal["transformers"] = "transformers"
    model: PretrainedModel
    allow_hub: AllowHub = False
    max_new_tokens: int = Field(512, ge=1)
    max_side_px: int = Field(1024, ge=64, description="Longer images are shrunk before the model sees them.")


Vlm = Annotated[OpenAiVlm | LocalVlm, Field(discriminator="kind")]
