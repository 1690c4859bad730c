"""How the labelled heads work together: reach, circuit, program, mechanism, and which heads are enough."""
