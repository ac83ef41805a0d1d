"""RoBERTa and XLM-RoBERTa: BERT's blocks under another head."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.bert import bert

roberta = replace(
    bert,
    name="roberta",
    model_types=("roberta", "xlm-roberta"),
    points={**bert.points, "logits": Where("lm_head", "output")},
)
