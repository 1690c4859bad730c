"""Make an answerer: the trainer and its runs."""
