"""Where an engine parts from its reference."""
