"""Training the miniature again: `python -m densenb.miniature.training.train`."""
