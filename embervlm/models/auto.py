"""The classes of the model in one place, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from embervlm.data.processor import EmberVLMProcessor
from embervlm.models.config import PRESETS, SPECIAL_TOKENS, EmberVLMConfig
from embervlm.models.modeling import EmberVLM, EmberVLMOutput, FleetState

AutoConfig.register("embervlm", EmberVLMConfig, exist_ok=True)
AutoModel.register(EmberVLMConfig, EmberVLM, exist_ok=True)
AutoProcessor.register(EmberVLMConfig, EmberVLMProcessor, exist_ok=True)

__all__ = [
    "PRESETS",
    "SPECIAL_TOKENS",
    "EmberVLM",
    "EmberVLMConfig",
    "EmberVLMOutput",
    "EmberVLMProcessor",
    "FleetState",
]
