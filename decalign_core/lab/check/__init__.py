"""Inline checks of the book (:mod:`~decalign_core.lab.check.core`) and a checker for each of its exercises.

``check.equal``, ``check.holds``, ``check.gradient`` and ``check.detected`` print one line or fail the cell;
``check.ch04.ex_04_2(answer)`` says whether exercise 4.2 is solved and what is wrong with a typical wrong answer.
"""

from decalign_core.lab.check import ch01, ch02, ch03, ch04, ch05, ch06, ch07, ch08, ch09, ch10, ch11, ch12, ch13
from decalign_core.lab.check.core import CheckError, answer, detected, equal, gradient, holds

__all__ = [
    "CheckError",
    "answer",
    "ch01",
    "ch02",
    "ch03",
    "ch04",
    "ch05",
    "ch06",
    "ch07",
    "ch08",
    "ch09",
    "ch10",
    "ch11",
    "ch12",
    "ch13",
    "detected",
    "equal",
    "gradient",
    "holds",
]
