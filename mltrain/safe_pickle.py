"""Reading plain data from an untrusted pickle, without unpickling it.

A pickle is a program: `pickle.load` imports whatever names it mentions and calls them. `read_pickle` reads its
instructions one by one and executes those that build plain data: numbers, text, bytes, lists, tuples, dicts, sets, and
NumPy arrays and scalars of numbers. Six names are understood, because NumPy's own pickles mention them; nothing is
imported or called by name. Every other name or instruction is refused. The memory that a file can allocate is bounded.
"""

from __future__ import annotations

import os
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from mltrain.errors import DataError

MAX_BYTES = 128 * 2**20
MAX_INSTRUCTIONS = 2_000_000

# Name in the pickle -> its meaning here. NumPy 2 writes `numpy._core`, NumPy 1 `numpy.core`.
NAMES = {
    **{f"numpy.{core}.multiarray._reconstruct": "array" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": "scalar" for core in ("core", "_core")},
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
    "__builtin__.set": "set",
    "builtins.set": "set",
}
NUMBER = re.compile(r"b1|[iu][1248]|f[248]")


def read_pickle(path: str | os.PathLike[str], max_bytes: int | None = None, max_instructions: int | None = None) -> Any:
    """Return the plain data of a pickle of protocol 2, 3 or 4; strings of Python 2 are decoded as latin-1.

    Args:
        path: the pickle.
        max_bytes: greatest size of the file and of the data that it builds; default: MAX_BYTES.
        max_instructions: greatest number of its instructions; default: MAX_INSTRUCTIONS.

    Raises:
        DataError: the file cannot be read, is no pickle, is too large, or holds more than plain data. Nothing in it was
            executed.
    """
    place = Path(path)
    max_bytes = MAX_BYTES if max_bytes is None else max_bytes
    try:
        size = place.stat().st_size
        if size > max_bytes:
            raise DataError(f"{place}: {size:,} bytes; such a pickle has at most {max_bytes:,}, so it is not read")
        data = place.read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror})") from error
    try:
        return _Interpreter(max_bytes).run(data, MAX_INSTRUCTIONS if max_instructions is None else max_instructions)
    except _RefusedError as refused:
        raise DataError(
            f"{place}: refused, and nothing of it was executed: {refused}. Pickles are programs; only plain data and "
            "NumPy arrays of numbers are read here. Get the file from its authors again"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        detail = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise DataError(f"{place}: broken pickle ({detail}); incomplete download? Get the file again") from error


class _RefusedError(Exception):
    """The pickle asks for something that is not supported."""


class _Name:
    """A name in the pickle, with its meaning here."""

    def __init__(self, spelled: str) -> None:
        if spelled not in NAMES:
            raise _RefusedError(f"it asks for {spelled[:100]!r}")
        self.means = NAMES[spelled]


class _Type:
    """A NumPy type: its code, and its byte order once the pickle has set it."""

    def __init__(self, code: Any) -> None:
        if not NUMBER.fullmatch(_is(code, str)):
            raise _RefusedError(f"it has an array of type {code[:20]!r}, which holds no numbers")
        self.numpy = np.dtype(code)

    def build(self, state: Any) -> _Type:
        order = _is(state[1], str)
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _RefusedError("it has an array of records")
        self.numpy = self.numpy.newbyteorder(order)
        return self


class _Array:
    """An array whose shape, type and bytes follow later in the pickle; `memo` lists its places in the memo."""

    def __init__(self) -> None:
        self.memo: list[int] = []

    def build(self, state: Any) -> np.ndarray:
        version, shape, kind, fortran, data = state
        if version != 1 or not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise _RefusedError("it has an array that is not stored as numbers")
        values = np.frombuffer(data, kind.numpy)  # shares the bytes; a size that does not fit is a ValueError
        if not all(type(n) is int and n >= 0 for n in _is(shape, tuple)):
            raise ValueError("the shape of an array")
        return values.reshape(shape, order="F" if fortran else "C")


class _Interpreter:
    """Interpreter of the pickle instructions that build plain data."""

    def __init__(self, max_bytes: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.max_bytes = self.left = max_bytes  # budget for copies that instructions make

    def run(self, data: bytes, max_instructions: int) -> Any:
        if not data.startswith(b"\x80"):
            raise _RefusedError("it does not begin like a pickle of protocol 2 or later")
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count >= max_instructions:
                raise _RefusedError(f"it has more than {max_instructions:,} instructions")
            name = instruction.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CARRIED_OUT:
                getattr(self, f"_{name.lower()}")(argument)
            elif name in _FIXED:
                self.stack.append(_FIXED[name])
            elif name in _ARGUMENTS:
                self.stack.append(argument)
            elif name not in ("PROTO", "FRAME"):
                raise _RefusedError(f"it has the instruction {name}")
        raise ValueError("no end")

    # -- containers --------------------------------------------------------------------------------------------------

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_set(self, _: Any) -> None:
        self.stack.append(set())

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        _is(self.stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        _is(self.stack[-1], list).extend(items)

    def _setitem(self, _: Any) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        _is(self.stack[-1], dict)[_key(key)] = value

    def _setitems(self, _: Any) -> None:
        items = self._since_mark()
        _is(self.stack[-1], dict).update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))

    def _additems(self, _: Any) -> None:
        items = self._since_mark()
        _is(self.stack[-1], set).update(_key(item) for item in items)

    # -- memory ------------------------------------------------------------------------------------------------------

    def _binput(self, place: int) -> None:
        top = self.stack[-1]
        self.memo[place] = top
        if isinstance(top, _Array):
            top.memo.append(place)

    _long_binput = _binput

    def _memoize(self, _: Any) -> None:
        self._binput(len(self.memo))

    def _binget(self, place: int) -> None:
        self.stack.append(self.memo[place])

    _long_binget = _binget

    # -- names -------------------------------------------------------------------------------------------------------

    def _global(self, spelled: str) -> None:
        self.stack.append(_Name(spelled.replace(" ", ".", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(f"{_is(module, str)}.{_is(name, str)}"))

    def _reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        means = name.means if isinstance(name, _Name) else None
        if means == "array":
            if not (isinstance(arguments[0], _Name) and arguments[0].means == "ndarray"):
                raise _RefusedError("it has an array of an unknown class")
            result: Any = _Array()
        elif means == "dtype":
            result = _Type(arguments[0])
        elif means == "scalar":
            kind, data = arguments
            result = np.frombuffer(_is(data, bytes), _is(kind, _Type).numpy, count=1)[0].item()
        elif means == "encode":
            text, encoding = arguments
            if _is(encoding, str) not in ("latin1", "latin-1"):
                raise _RefusedError(f"it has text in the encoding {encoding[:20]!r}")
            self._spend(len(_is(text, str)))
            result = text.encode("latin1")
        elif means == "set":
            (items,) = arguments
            self._spend(100 * len(_is(items, list)))
            result = {_key(item) for item in items}
        else:
            raise _RefusedError("it calls something that is not an allowed function")
        self.stack.append(result)

    def _build(self, _: Any) -> None:
        state, subject = self.stack.pop(), self.stack.pop()
        if not isinstance(subject, _Array | _Type):
            raise _RefusedError("it sets attributes of an object")
        if isinstance(subject, _Array) and type(_is(state, tuple)[-1]) is str:  # the bytes of Python 2
            self._spend(len(state[-1]))
            state = (*state[:-1], state[-1].encode("latin1"))
        result = subject.build(_is(state, tuple))
        self.stack.append(result)
        if isinstance(subject, _Array):
            self.memo.update(dict.fromkeys(subject.memo, result))

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _RefusedError(f"it builds more than {self.max_bytes:,} bytes")


# Supported instructions besides PROTO, FRAME and STOP.
_CARRIED_OUT = frozenset(
    {"MARK", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS"}
    | {"SETITEM", "SETITEMS", "ADDITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"}
    | {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}
)
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES"}
    | {"SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"}
)


def _is(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__.strip('_').lower()} where a {kind.__name__.strip('_').lower()} fits")
    return value


def _key(value: Any) -> Any:
    """Check a key of a dict or an item of a set: an int or str, which hash fast."""
    if type(value) not in (int, str):
        raise ValueError(f"a {type(value).__name__.strip('_').lower()} as a key")
    return value
