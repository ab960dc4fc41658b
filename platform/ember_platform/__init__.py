"""The Ray platform that makes EmberVLM: data, training, tracking, registry."""
