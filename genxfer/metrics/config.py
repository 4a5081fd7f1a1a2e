"""The section `evaluate` of params.yaml: what is measured, with what, on how many samples.

Data only, read without importing torch. Knows nothing of how a metric is computed.
"""

from typing import Self

from pydantic import Field, field_validator, model_validator

from genxfer.checked import Checked
from genxfer.errors import ParameterError
from genxfer.metrics import EXTRACTORS, METRICS, check_known, check_weights


class EvaluateConfig(Checked):
    """How source-only, from-scratch and transferred samples are compared with the test images of the target."""

    extractor: str = Field(
        default="lite0",
        description="Feature extractor: lite0 (EfficientNet-Lite0 on ImageNet, works offline), pixels, or inception "
        "(the FID network) and dinov2, whose weights extractor_weights names.",
        json_schema_extra={"enum": list(EXTRACTORS)},
    )
    extractor_weights: str | None = Field(
        default=None,
        description="File or address of the weights of inception or dinov2, with #sha256=... behind an address.",
    )
    n_samples: int | None = Field(
        default=None,
        ge=3,
        le=100_000,
        description="Samples drawn from each model. FID wants more than the extractor's feature size (lite0: 1280).",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of the samples, the same for every model.")
    metrics: tuple[str, ...] = Field(
        default=tuple(METRICS),
        description="What is measured; kid must be among them, as the transfer gain is a ratio of KIDs.",
        json_schema_extra={"items": {"enum": list(METRICS)}},
    )

    @model_validator(mode="after")
    def _weights_are_of_use(self) -> Self:
        keys = {"key": "evaluate.extractor", "weights_key": "evaluate.extractor_weights"}
        check_weights(self.extractor, self.extractor_weights, **keys)
        return self

    @field_validator("extractor")
    @classmethod
    def _extractor_is_known(cls, name: str) -> str:
        return check_known("evaluate.extractor", name, EXTRACTORS)

    @field_validator("metrics")
    @classmethod
    def _metrics_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_known("evaluate.metrics", name, METRICS)
        if "kid" not in names or len(set(names)) != len(names):
            raise ParameterError(
                f"evaluate.metrics is {list(names)}; it must name each metric once and contain 'kid', because the "
                f"transfer gain is a ratio of KIDs. Known names: {', '.join(METRICS)}."
            )
        return names
