"""Trained models on the Hugging Face Hub: a model card in every pipeline folder, and `toolkit push`."""

from toolkit_hub.card import toolkit_pipeline_saved as toolkit_pipeline_saved
