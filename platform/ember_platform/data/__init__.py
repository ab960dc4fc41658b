"""From raw sources to checked shards, and from shards to the batches of a step."""
