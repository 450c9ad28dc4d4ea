"""One file per family, one function per variant; the facts about each variant stand in `edgecnn/zoo.toml`."""
