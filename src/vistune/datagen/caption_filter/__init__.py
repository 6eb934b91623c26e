"""Concept-balanced selection of stage-1 captions (LLaVA, section 4.1: CC3M -> 595K)."""

from vistune.datagen.caption_filter.concepts import FilteredCaptions, filter_captions

__all__ = ["FilteredCaptions", "filter_captions"]
