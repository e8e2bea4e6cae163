"""A diagnosis to look at: the regime map and layers as a picture, as HTML in a notebook, and the page."""

from lazyscope.views.notebook import as_html, picture
from lazyscope.views.page import origin, write_page
from lazyscope.views.regime_map import Point, paths_map, reference_map

__all__ = ["Point", "as_html", "origin", "paths_map", "picture", "reference_map", "write_page"]
