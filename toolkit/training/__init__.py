"""Training: objectives, the trainer, and what happens around its steps."""
