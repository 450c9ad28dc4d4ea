"""What leaves this machine: one file for each destination, and the archive that carries it."""
