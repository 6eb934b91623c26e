"""Select stage-1 captions balanced by concept (LLaVA, section 4.1: CC3M -> 595K)."""

from vistune.datagen.caption_filter.filter import FilteredCaptions, FilterOptions, filter_captions

__all__ = ["FilterOptions", "FilteredCaptions", "filter_captions"]
