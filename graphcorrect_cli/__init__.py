"""The command line of graphcorrect: its options, outside the package, whose import would load PyTorch for `--help`."""
