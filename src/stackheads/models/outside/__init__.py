"""Models that were not made here: GPT-2 files, bridges, language models."""
