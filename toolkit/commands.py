"""Public names for commands of plugins; none of them imports torch, so that a command answers at once.

What a command does with models it imports from `toolkit`, when it runs.
"""

from typing import TYPE_CHECKING, Any

from toolkit.cli.complete import run_folders
from toolkit.cli.options import choose_device, choose_sampler, device_option, json_option, sampler_options
from toolkit.errors import PluginError, RecipeError, RunError, ToolkitError, nearest, printable
from toolkit.files import new_file, read_json, refuse_taken, write_json, write_text, writing
from toolkit.recipe import PROTOCOL, Layer, Layers, Section, flag_layer, read_layers, resolve, write_toml
from toolkit.registry.discover import NONE, OWN, compatible, discover
from toolkit.registry.discover import commands as installed_commands
from toolkit.runs.layout import run_of
from toolkit.runs.read import Cost, RunSummary, ScoreFile, read_run, scores_of
from toolkit.runs.snapshots import Snapshot, read_snapshots

if TYPE_CHECKING:
    from toolkit.console import Terminal, echo, echo_json, sampling_display, say

__all__ = [
    "Cost", "Layer", "Layers", "NONE", "OWN", "PROTOCOL", "PluginError", "RecipeError", "RunError",
    "RunSummary", "ScoreFile", "Section", "Snapshot", "Terminal", "ToolkitError", "choose_device",
    "choose_sampler", "compatible", "device_option", "discover", "echo", "echo_json", "flag_layer",
    "installed_commands", "json_option", "nearest", "new_file", "printable", "read_json", "read_layers",
    "read_run", "read_snapshots", "refuse_taken", "resolve", "run_folders", "run_of", "sampler_options",
    "sampling_display", "say", "scores_of", "write_json", "write_text", "write_toml", "writing",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("Terminal", "echo", "echo_json", "sampling_display", "say"):  # rich comes with them
        from toolkit import console

        return getattr(console, name)
    raise AttributeError(f"module 'toolkit.commands' has no attribute {name!r}")
