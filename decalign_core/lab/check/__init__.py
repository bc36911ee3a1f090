"""Inline checks of the book (:mod:`~decalign_core.lab.check.core`) and a checker for each of its exercises.

``check.equal``, ``check.holds``, ``check.gradient`` and ``check.detected`` print one line or fail the cell;
``check.ex_04_2(answer)`` tells a reader whether exercise 4.2 is solved and, of a typical wrong answer, what is wrong.
"""

from decalign_core.lab.check.core import CheckError, answer, detected, equal, gradient, holds

__all__ = ["CheckError", "answer", "detected", "equal", "gradient", "holds"]
