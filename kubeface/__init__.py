"""Fine-tune a face-recognition model on your own people, and know whether it got better."""

__version__ = "0.1.0"
