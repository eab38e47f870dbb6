"""What mkdocs cannot know: the catalogue's pages and the API reference, generated before every build."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "surefoot"
DOCS = ROOT / "docs"
GROUPS = ("core", "records", "numerics", "data")
SINGLE = ("catalog", "testing")


def public(path: Path) -> bool:
    """Whether a module's page belongs into the reference: it has a docstring and a public name."""
    return (
        not path.name.startswith("_")
        and not path.name.endswith("card.py")
        and ast.get_docstring(ast.parse(path.read_text())) is not None
    )


def reference_page(package: str) -> str:
    """One page a package, one section a module."""
    folder = SOURCE / package
    modules = sorted(p for p in folder.rglob("*.py") if public(p))
    heading = (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").strip()
    names = [".".join(("surefoot", *p.relative_to(SOURCE).with_suffix("").parts)) for p in modules]
    return f"# {package}\n\n{heading}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def cards_page() -> str:
    """The catalogue as a table."""
    from surefoot import catalog

    rows = ["# Cards", "", "| card | what it does | paper | sample | extras |", "|---|---|---|---|---|"]
    for name, card in catalog.cards().items():
        if name not in catalog.BUILT_IN:
            continue
        extras = ", ".join(f"`{e}`" for e in card.extras) or "none"
        rows.append(
            f"| [`{name}`]({name}.md) | {card.title} | [{card.paper.authors[0]} et al. {card.paper.year}]({card.paper.url}) | {card.sample.title} | {extras} |"
        )
    return "\n".join(rows) + "\n"


def on_config(config: Any) -> Any:
    """Write the generated pages and put them into the navigation."""
    from surefoot import catalog

    (DOCS / "reference").mkdir(exist_ok=True)
    domains = sorted({p.parent.name for p in SOURCE.glob("*/*card.py")})
    packages = [*GROUPS, *domains, *(p for p in ("optim",) if (SOURCE / p).is_dir())]
    for package in packages:
        (DOCS / "reference" / f"{package}.md").write_text(reference_page(package))
    for module in SINGLE:
        (DOCS / "reference" / f"{module}.md").write_text(f"# {module}\n\n::: surefoot.{module}\n")
    (DOCS / "cards" / "index.md").write_text(cards_page())
    config["nav"] += [
        {"Cards": ["cards/index.md", *(f"cards/{name}.md" for name in catalog.BUILT_IN)]},
        {"Reference": [f"reference/{name}.md" for name in (*packages, *SINGLE)]},
    ]
    return config
