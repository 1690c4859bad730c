"""Many runs: a grid of settings, on processes or a Ray cluster."""
