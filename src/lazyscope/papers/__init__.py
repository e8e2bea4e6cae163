"""Figures and claims of the two papers and findings of later ones, re-derived; `registry` says where each is.

A folder is a question, a file what is asked or trained. Names are those under which the papers print a figure.
"""
