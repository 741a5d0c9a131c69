"""What the documents say is so: examples run, links lead somewhere, every setting is listed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from embakery import Embedder
from embakery.messages import EmbedMessage, parse_message

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def test_the_readme_s_program_prints_what_the_readme_says(default_artifact: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```\n\n    (.*?)\n", readme, flags=re.DOTALL)
    assert len(programs) == 1
    for program, printed in programs:
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == printed


def test_the_readme_s_message_is_one(default_artifact: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"```json\n(.*?)```", readme, flags=re.DOTALL)
    message = parse_message(body, limits=Embedder.load(default_artifact).limits)
    assert isinstance(message, EmbedMessage)
    assert message.job_id == "optional"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_setting_is_listed() -> None:
    listed = set(re.findall(r"`(EMBAKERY_\w+)`", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))
    assert listed == set(re.findall(r'"(EMBAKERY_\w+)"', (ROOT / "handlers" / "settings.py").read_text("utf-8")))


def test_the_makefile_s_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"^    make ([\w-]+)", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE))
    assert mentioned == {"demo", "test", "local", "check", "image", "sam-test", "package"}
    assert mentioned <= set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
