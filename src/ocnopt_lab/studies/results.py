"""What a study leaves behind: results.json for programs and results.md for readers, of the same content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ocnopt_lab.errors import writing
from ocnopt_lab.runs import folder
from ocnopt_lab.studies.summaries import Result, machines

JSON, MARKDOWN = "results.json", "results.md"


@dataclass(frozen=True)
class Table:
    """A table of words. The first column is set left, all others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """With its title above and its note below."""
        rule = ["---", *("---:" for _ in self.columns[1:])]
        lines = "\n".join("| " + " | ".join(line) + " |" for line in (self.columns, rule, *self.rows))
        return "\n\n".join(part for part in (f"**{self.title}**", lines, self.note) if part)


@dataclass(frozen=True)
class Picture:
    """A PNG in the folder of the study."""

    file: str
    caption: str

    def markdown(self) -> str:
        """The picture with its caption below."""
        return f"![{self.caption}]({self.file})\n\n{self.caption}"


@dataclass(frozen=True)
class Results:
    """All that is told of a study; the layout of the file is that in the docstring of `ocnopt_lab.studies`."""

    kind: str
    command: str
    sentences: Sequence[str]
    runs: Sequence[Result]
    tables: Sequence[Table]
    pictures: Sequence[Picture]

    def markdown(self) -> str:
        """The page, its title left to whom it is put together by."""
        blocks = [f"```bash\n{self.command}\n```", *self.sentences, machines(self.runs)]
        blocks += [table.markdown() for table in self.tables]
        blocks += [picture.markdown() for picture in self.pictures]
        return "\n\n".join(blocks) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "kind": self.kind,
            "problem": ", ".join(dict.fromkeys(run.problem for run in self.runs)),
            "environment": self.runs[0].environment,
            "sentences": list(self.sentences),
            "runs": [run.to_dict() for run in self.runs],
            "tables": [asdict(table) for table in self.tables],
            "pictures": [asdict(picture) for picture in self.pictures],
        }

    def write(self, path: Path) -> Path:
        """Both files into the folder `path`; the one to read is returned."""
        folder.write_json(path / JSON, self.to_dict())
        with writing(path / MARKDOWN):
            (path / MARKDOWN).write_text(self.markdown())
        return path / MARKDOWN
