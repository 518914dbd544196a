#!/usr/bin/env bash
# Guessed: A .mo file that Babel writes has the translated messages alone, as msgfmt's has; an entry without a
#   translation is left out.
# What is: Untranslated plural entries are written, with English as their translation (msgid as form 0, msgid_plural
#   as the others); so is a missing form of a half-translated one.
# Seen with: babel 2.19.0, polib 1.2.0; Python 3.11; 2026-11-28
# Why it matters: Read as parallel text, such a catalog has English as Greek, Welsh …; a filter for copies finds it
#   only where a whole pair is a copy. Django's Greek catalog, compiled so, has six such messages.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check babel==2.19.0 polib==1.2.0
cd "$work"

cat > expected <<'END'
babel | %d hour | [(0, '%d ώρα'), (1, '%d hours')]
babel | %d month | [(0, '%d month'), (1, '%d months')]
END

"$work/env/bin/python" - > seen <<'END'
import io
import polib
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

catalog = """
msgid ""
msgstr ""
"Language: el\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "Close"
msgstr ""

msgid "%d month"
msgid_plural "%d months"
msgstr[0] ""
msgstr[1] ""

msgid "%d hour"
msgid_plural "%d hours"
msgstr[0] "%d \u03ce\u03c1\u03b1"
msgstr[1] ""
"""
with open("babel.mo", "wb") as file:
    write_mo(file, read_po(io.BytesIO(catalog.encode())))
polib.pofile(catalog).save_as_mofile("polib.mo")
for writer in ("babel", "polib"):
    for entry in polib.mofile(f"{writer}.mo"):
        print(writer, "|", entry.msgid, "|", sorted((entry.msgstr_plural or {0: entry.msgstr}).items()))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(babel|polib)==' || true
cat seen
diff expected seen || { echo "CHANGED: Babel writes other plural forms for untranslated entries"; exit 1; }
echo "as stated"
