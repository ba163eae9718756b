"""Slides: open any, find tissue, lay tiles, judge quality."""
