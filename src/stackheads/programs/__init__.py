"""A circuit written down: steps, the compiler that makes a model of them, mechanisms."""
