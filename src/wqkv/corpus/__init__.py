"""What a model's heads do over a whole corpus."""
