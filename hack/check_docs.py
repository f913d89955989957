"""Checks what can be checked of the documents: code is quoted from files that are tested, links lead somewhere, and the
error codes and metrics that are named exist.

A block of YAML or Python names its file in the line before it, as in <!-- examples/hello.yaml -->, and is that file or
lines of it that follow each other; it may be indented less.
"""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n```(?:yaml|yml|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (\S+) -->")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# In the sources: a name and a help text for it, one after the other.
REGISTERED = re.compile(r'[(]\s*"(\w+)",\s*"[A-Z0-9]')
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def holds(file, code):
    """Whether the lines of `code`, indentation apart, follow each other in `file`."""
    lines, wanted = file.splitlines(), code.splitlines()
    starts = range(len(lines) - len(wanted) + 1)
    return any(dedent("\n".join(lines[at : at + len(wanted)])) == "\n".join(wanted) for at in starts)


def wrong_blocks(text):
    for block in BLOCK.finditer(text):
        mark, first = MARK.fullmatch(block["before"]), block["code"].split("\n", 1)[0]
        if not mark:
            yield f"the block that begins {first!r} does not name its file in the line before"
        elif not (ROOT / mark[1]).is_file():
            yield f"there is no {mark[1]}"
        elif not holds((ROOT / mark[1]).read_text(), dedent(block["code"])):
            yield f"the block that begins {first!r} is not in {mark[1]}"


def anchor(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(text):
    """The anchors of a document."""
    return [anchor(heading) for heading in HEADING.findall(FENCED.sub("", text))]


def wrong_links(path, text):
    for link in LINK.findall(FENCED.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        file, _, part = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif part and part not in headings(target.read_text()):
            yield f"there is no such heading: {link}"


def wrong_names(texts):
    """Error codes that are not explained, and metrics that are made up."""
    codes = re.findall(r'ErrorCode::\w+ => "(\w+)"', (ROOT / "src/api/error.rs").read_text())
    explained = texts["docs/workflows.md"]
    yield from (f"docs/workflows.md: does not explain {code}" for code in codes if f"`{code}`" not in explained)
    operator = "".join(path.read_text() for path in (ROOT / "src/operator").rglob("*.rs"))
    for name, text in texts.items():
        for metric in re.findall(r"`compozy_(\w+?)(?:_total)?`", text):
            if f'"{metric}"' not in operator:
                yield f"{name}: there is no metric compozy_{metric}"
    listed = texts["docs/install.md"]
    for metric in REGISTERED.findall(operator):
        if not re.search(rf"^\| `compozy_{metric}(_total)?` \|", listed, re.MULTILINE):
            yield f"docs/install.md: does not list the metric compozy_{metric}"


def main():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    texts = {name: (ROOT / name).read_text() for name in listed}
    wrong = list(wrong_names(texts))
    for name, text in texts.items():
        wrong += [f"{name}: {what}" for what in (*wrong_blocks(text), *wrong_links(ROOT / name, text))]
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
