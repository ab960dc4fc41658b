"""The model: vision, language, fusion, selection, reasoning, and EmberVLM itself (`embervlm.models.auto`)."""
