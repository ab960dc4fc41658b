"""Tasks and fleets in free words: a lexicon tied to requirements, and what is made of it (text only, no picture)."""
