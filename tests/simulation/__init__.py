"""The deterministic simulation: production cores, virtual time, one seed, every fault of the model."""
