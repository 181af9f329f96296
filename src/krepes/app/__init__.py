"""The local web app over a run folder: `krepes serve`."""
