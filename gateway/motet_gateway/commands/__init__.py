"""One module for each group of commands; each imports what it needs when it runs, so that `--help` is quick."""
