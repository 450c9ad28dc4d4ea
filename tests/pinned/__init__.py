"""What the outside sees of edgecnn, held against golden files: a change of the inside must leave all of it alone."""
