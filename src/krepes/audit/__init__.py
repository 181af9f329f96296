"""Whether, and how far, an explanation may be trusted."""
