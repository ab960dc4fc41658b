"""Robot selection over many records: the endpoint's model and checks, without the endpoint. See `run.select_all`."""
