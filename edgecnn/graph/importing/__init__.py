"""Graphs from elsewhere made to fit, or refused."""
