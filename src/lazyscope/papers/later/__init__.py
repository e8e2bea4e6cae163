"""Findings of later papers on lazy training and implicit bias, one module a paper."""
