"""Which parameter leaves belong together: one group a module, or groups that globs over the leaves' paths name.

A module is the path of a leaf without its last part: what a Flax, Equinox or PyTorch module holds is one group. The two
factors of a low-rank update (LoRA, Hu et al. 2022) are one group, apart from the weights that they update. A leaf that
lies in no module is a group of its own.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from jaxtyping import PyTree

from lazyscope import tree

Groups = Mapping[str, str] | Sequence[str] | None
"""Globs over leaf paths and the names of their groups, or globs alone, which then name the groups themselves."""

_LORA = re.compile(r"lora_?(embedding_)?(a|b|up|down)$", re.IGNORECASE)


def grouped(params: PyTree, groups: Groups = None) -> dict[str, list[int]]:
    """The numbers of the leaves (in the order of `tree.split`) of each group, by name.

    A leaf goes to the first glob that matches its path (`tree.group_names`: `layers/0/w`); those that none matches stay
    with their module. Raises ValueError for a glob that matches no leaf.
    """
    paths = tree.group_names(params)
    globs = _named(groups)
    for glob in globs:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise ValueError(
                f"a group must hold a parameter, got {glob!r} that matches none: the paths are {_some(paths)}"
            )
    found: dict[str, list[int]] = {}
    for leaf, path in enumerate(paths):
        name = next((name for glob, name in globs.items() if fnmatchcase(path, glob)), None) or module_of(path)
        found.setdefault(name, []).append(leaf)
    return found


def module_of(path: str) -> str:
    """The module of a leaf: `encoder/0` of `encoder/0/kernel`, `q_proj/lora` of `q_proj/lora_A/weight`."""
    separator = "/" if "/" in path else "."
    parts = path.split(separator)
    for at, part in enumerate(parts):
        if _LORA.match(part):
            return separator.join([*parts[:at], "lora"])
    return separator.join(parts[:-1]) or path


def _named(groups: Groups) -> dict[str, str]:
    if groups is None:
        return {}
    return dict(groups) if isinstance(groups, Mapping) else {glob: glob for glob in groups}


def _some(paths: list[str], most: int = 6) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
