"""What is measured and judged: frozen dataclasses whose fields are the keys of the JSON."""
