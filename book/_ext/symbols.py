r"""Every symbol of ``book/notation.md`` explained where a page uses it.

A formula, in a line or displayed, gets a tooltip with the rows of the table
whose symbols are in it. A symbol counts as written: ``x_t`` is not ``x`` with
an index. Two rows that explain one symbol are a warning, so that a `-W` build
fails.
"""

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)

NOTATION = "book/notation"
ROW = re.compile(r"^\|(.*)\|\s*$", re.MULTILINE)
FORMULA = re.compile(r"\$([^$]+)\$")
# An accent or a font belongs to its letter: \bar y is not y, \mathrm S not S.
TOKEN = re.compile(
    r"\\(?:bar|hat|tilde|dot|vec|text|mathrm|mathbf|mathbb|mathcal|operatorname)\s*"
    r"(?:\{[^{}]*\}|\\?[A-Za-z]+)|\\[A-Za-z]+|\\.|[0-9]+|\S"
)
# What is no symbol of a formula: its layout, and what a sum runs over.
LAYOUT = re.compile(
    r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\\\(?:\[[^\]]*\])?|&"
    r"|(?<=\\sum)_\{[a-z]{1,2}(?:\s*=[^{}]*)?\}"
)
SPACING = {r"\,", r"\;", r"\:", r"\!", r"\ ", r"\left", r"\right", r"\quad"}
BARS = {
    r"\lVert": r"\|",
    r"\rVert": r"\|",
    r"\Vert": r"\|",
    r"\lvert": "|",
    r"\rvert": "|",
}
POWERS = {"p", r"\T", r"\top"}  # and numbers: what a symbol's power may be
LETTERS = r"""
\alpha α \beta β \gamma γ \delta δ \zeta ζ \eta η \theta θ \lambda λ \mu μ
\xi ξ \pi π \rho ρ \sigma σ \tau τ \phi φ \varphi φ \psi ψ \omega ω
\varepsilon ε \epsilon ε \Gamma Γ \Delta Δ \Lambda Λ \Pi Π \Phi Φ \Psi Ψ
\Omega Ω \ell ℓ \nabla ∇ \sum ∑ \le ≤ \ge ≥ \in ∈ \lVert ‖ \rVert ‖ \lvert |
\rvert | \mid | \T ᵀ \top ᵀ \cdot · \circ ∘ \times × \to → \colon : \tfrac12 ½
\propto ∝ \W W \E E \R ℝ \det det \exp exp \log log \deg deg \grad grad
\Hess Hess \vol vol \diag diag \Sigma Σ
"""
PLAIN: dict[str, str] = dict(
    zip(LETTERS.split()[::2], LETTERS.split()[1::2], strict=True)
)


def tokens(tex):
    """What a formula is made of, alike however it is spaced and braced."""
    found = []
    for token in TOKEN.findall(LAYOUT.sub(" ", tex)):
        if token in SPACING:
            continue
        token = str(BARS.get(token, token))
        font = re.fullmatch(r"(\\[a-z]+)\s*\{?\s*(\\?[^{}]*?)\s*\}?", token)
        if font and font[2]:
            token = f"{font[1]}{{{font[2]}}}"
        if token == "}" and len(found) > 1 and found[-2] == "{":
            found[-2:] = [found[-1]]  # {x} is x
        else:
            found.append(token)
    return tuple(found)


def plain(tex):
    """A formula for a text without formulas."""
    text = re.sub(r"\\math[a-z]+\s*\{?\s*([A-Za-z])\s*\}?", r"\1", tex)
    text = re.sub(r"\\hat\s*\{?\s*([A-Za-z])\s*\}?", "\\1\u0302", text)
    text = text.replace(r"\tfrac12", "½").replace(r"\|", "‖")
    text = re.sub(
        r"\\[A-Za-z]+", lambda name: PLAIN.get(name[0], name[0][1:]), text
    )
    text = (
        re.sub(r"\\[,;:! ]", " ", text).replace("^{+}", "⁺").replace("^2", "²")
    )
    text = re.sub(r"[{}]", "", text)
    return re.sub(r"\s+", " ", text.replace("^ᵀ", "ᵀ")).strip()


def prose(cell):
    """A cell of the table as plain text."""
    text = FORMULA.sub(lambda formula: plain(formula[1]), cell)
    text = re.sub(
        r"\[([^\]]*)\]\([^)]*\)|\{[a-z:]+\}`([^<`]*)[^`]*`", r"\1\2", text
    )
    return re.sub(r"[`*]", "", text).strip()


def read(text):
    """The symbols of the table: tokens -> (as plain text, what it means)."""
    symbols, clashes = {}, []
    for row in ROW.findall(text):
        cells = [
            cell.strip().replace(r"\|", "|")
            for cell in re.split(r"(?<!\\)\|", row)
        ]
        if len(cells) != 5 or not FORMULA.search(cells[0]):
            continue
        meaning, code, unit = (prose(cells[i]) for i in (1, 2, 4))
        said = meaning + (f" · in the code: {code}" if code != "–" else "")
        said += f" · unit: {unit}" if unit != "–" else ""
        for tex in FORMULA.findall(cells[0]):
            key = tokens(tex)
            if key in symbols:
                clashes.append(f"{tex}: {symbols[key][1]}; {said}")
            symbols[key] = (plain(tex), said)
    return symbols, clashes


def ends(formula, end):
    """Whether a symbol may end there: an index or prime would make another."""
    after = formula[end : end + 2]
    if not after or after[0] not in ("_", "'", "^"):
        return True
    return (
        after[0] == "^"
        and len(after) == 2
        and (after[1].isdigit() or after[1] in POWERS)
    )


def tooltip(tex, symbols):
    """The rows of the symbols in a formula, a line each, in their order."""
    formula, rows, start = tokens(tex), {}, 0
    longest = max(map(len, symbols), default=0)
    while start < len(formula):
        for end in range(min(len(formula), start + longest), start, -1):
            row = symbols.get(formula[start:end])
            if row and ends(formula, end):
                rows.setdefault(row[1], {})[row[0]] = None
                start = end
                break
        else:
            start += 2 if formula[start] == "_" else 1  # what is an index only
    return "\n".join(
        f"{', '.join(names)}: {said}" for said, names in rows.items()
    )


class symbol(nodes.inline):
    """A formula with a tooltip."""


def visit_symbol(self, node):
    # by hand: `starttag` would make one line of the title
    title = html.escape(node["title"]).replace("\n", "&#10;")
    self.body.append(f'<{kind(node)} class="symbol" title="{title}">')


def depart_symbol(self, node):
    self.body.append(f"</{kind(node)}>")


def kind(node):
    """A displayed formula is a block, and so is what is around it."""
    return "div" if isinstance(node[0], nodes.math_block) else "span"


def read_table(app):
    path = Path(app.srcdir, f"{NOTATION}.md")
    app.symbols, clashes = (
        read(path.read_text()) if path.exists() else ({}, [])
    )
    for clash in clashes:
        logger.warning(
            "a symbol with two meanings, %s", clash, location=NOTATION
        )


def depend_on_table(app, doctree):
    """A change of the table changes every page."""
    app.env.note_dependency(str(Path(app.srcdir, f"{NOTATION}.md")))


def explain(app, doctree, docname):
    if docname == NOTATION:
        return
    formulas = [
        *doctree.findall(nodes.math),
        *doctree.findall(nodes.math_block),
    ]
    for math in formulas:
        if title := tooltip(math.astext(), app.symbols):
            explained = symbol(title=title)
            math.replace_self(explained)
            explained += math


def setup(app):
    app.add_node(symbol, html=(visit_symbol, depart_symbol))
    app.connect("builder-inited", read_table)
    app.connect("doctree-read", depend_on_table)
    app.connect("doctree-resolved", explain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
