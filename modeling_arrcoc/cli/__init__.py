"""The `arrcoc` command line."""
