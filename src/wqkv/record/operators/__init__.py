"""The third door of `watch`: attention that is heard at its operators, in any PyTorch model."""
