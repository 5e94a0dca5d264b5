"""Our layer from others, and back: Hugging Face models, checkpoints, nn.MultiheadAttention."""
