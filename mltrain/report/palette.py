"""Colours of pages, plots and captions, light and dark. One colour has one meaning.

| colours                       | meaning                                                                       |
|-------------------------------|-------------------------------------------------------------------------------|
| head medium tail unseen       | groups of classes                                                             |
| hit wrong missed              | a label that was predicted, a prediction that is no label, a label not predicted |
| s0 ... s9                     | settings of compared runs, where nothing else has a colour                    |
| low mid high                  | a share, from none to the most (heat maps)                                    |
| text neutral                  | all else: text is the main line (EMA weights), neutral the other (raw weights) |

The hues are those of Okabe and Ito and of Paul Tol, which people with any kind of colour blindness can tell apart; a
sign (✓ ✗ ○), a shape or a dash repeats what a colour says.
"""

from __future__ import annotations

_SERIES = {
    "light": "#332288 #d1672b #2f9d8c #a0357f #6f7d1d #55a8d4 #882244 #b59f3b #117733 #6b6b6b",
    "dark": "#9b8cf2 #f09a62 #5fd0bf #d679bd #b8c552 #8fd3f5 #e0708f #e3cf75 #5cc27c #b4b4b4",
}

LIGHT = {
    "bg": "#f6f7f9",
    "card": "#ffffff",
    "text": "#1c2330",
    "muted": "#5c6675",
    "line": "#dfe3e9",
    "grid": "#e8ebf0",
    "neutral": "#9aa3b0",
    "accent": "#45536b",
    "soft": "#e9edf3",
    "head": "#0065a8",
    "medium": "#41a6de",
    "tail": "#b8478c",
    "unseen": "#76679b",
    "hit": "#00775a",
    "wrong": "#c24400",
    "missed": "#8f6400",
    "low": "#f3f5f8",
    "mid": "#93a0b5",
    "high": "#1d2a40",
    "hover": "#1c2330",
    "hover-text": "#ffffff",
    "band": "rgba(70, 90, 120, .13)",
} | {f"s{k}": value for k, value in enumerate(_SERIES["light"].split())}

DARK = {
    "bg": "#12161c",
    "card": "#1a2028",
    "text": "#e4e8ee",
    "muted": "#9aa5b4",
    "line": "#2c3540",
    "grid": "#2a323d",
    "neutral": "#75808f",
    "accent": "#a9b8d0",
    "soft": "#273140",
    "head": "#3f97dd",
    "medium": "#98d5fb",
    "tail": "#e58bc1",
    "unseen": "#a99bcb",
    "hit": "#3fcb9c",
    "wrong": "#ff8c50",
    "missed": "#e2b544",
    "low": "#1f2731",
    "mid": "#64748c",
    "high": "#eef3fa",
    "hover": "#e4e8ee",
    "hover-text": "#12161c",
    "band": "rgba(170, 190, 215, .13)",
} | {f"s{k}": value for k, value in enumerate(_SERIES["dark"].split())}

SERIES = tuple(f"--s{k}" for k in range(10))
"""colours of compared settings, as variables of a page"""


def css() -> str:
    """Return the variables of a page: light, dark by preference, and either by the button of the page."""
    light, dark = (
        "color-scheme: " + scheme + "; " + " ".join(f"--{key}: {value};" for key, value in colours.items())
        for scheme, colours in (("light", LIGHT), ("dark", DARK))
    )
    return (
        f':root, :root[data-theme="light"] {{ {light} }}\n'
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {dark} }}\n'
    )
