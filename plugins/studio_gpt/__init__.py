"""Language models, and captions of pictures."""
