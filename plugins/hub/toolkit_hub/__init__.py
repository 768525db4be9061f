"""Trained models on the Hugging Face Hub: a model card in every pipeline folder, and `toolkit push`."""

from pathlib import Path

from toolkit import hookimpl


@hookimpl
def toolkit_pipeline_saved(folder: Path, run: Path | None) -> None:
    from toolkit_hub.card import refresh_card  # only now: every command loads this module

    refresh_card(folder, run)
