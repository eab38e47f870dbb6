"""Where a method comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """The paper a card is made from."""

    title: str
    authors: tuple[str, ...]  # "First Last"
    year: int
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    claim: str = ""  # the paper's claim in one sentence, for the tour

    @property
    def url(self) -> str:
        return (
            f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}" if self.doi else ""
        )

    @property
    def bibtex(self) -> str:
        last = self.authors[0].split()[-1].lower() if self.authors else "anon"
        rows = {
            "title": "{" + self.title + "}", "author": " and ".join(self.authors), "year": str(self.year),
            "journal": self.venue or f"arXiv:{self.arxiv}" * bool(self.arxiv), "eprint": self.arxiv, "doi": self.doi,
        }  # fmt: skip
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in rows.items() if v)
        return f"@article{{{last}{self.year},\n{body}\n}}"
