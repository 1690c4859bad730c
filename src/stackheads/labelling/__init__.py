"""Which head does what: the evidence for each (head, destination), and the verdict on it."""
