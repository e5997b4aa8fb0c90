"""Post-training quantization: a trained model becomes a model of integers."""
