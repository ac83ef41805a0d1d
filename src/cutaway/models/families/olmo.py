"""OLMo: the Llama layout with layer norms that have no weights."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.llama import llama

olmo = dataclasses.replace(llama, name="olmo", model_types=("olmo",), norm="layer")
