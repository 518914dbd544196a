#!/usr/bin/env bash
# Guessed: closest_match(code, supported) finds another spelling or a variety of the language, and says und where
#   there is none.
# What is: Within the default distance it gives another language: Spanish for Catalan, Galician and Basque, French for
#   Breton, English for Welsh and Irish, Russian for Belarusian and Ukrainian. Cantonese and Chinese without a country
#   (zh among zh-TW, zh-HK) have no match.
# Seen with: langcodes 3.5.1, language-data 1.4.0; Python 3.11; 2026-11-28
# Why it matters: Used to map a corpus's codes to a model's tags it puts text under another language's tag, without an
#   error.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check langcodes==3.5.1 language-data==1.4.0
cd "$work"

cat > expected <<'END'
ca among ['es', 'fr'] -> es 20
eu among ['es', 'fr'] -> es 20
br among ['fr', 'en'] -> fr 20
cy among ['en', 'fr'] -> en 24
ga among ['en'] -> en 24
be among ['ru', 'pl'] -> ru 24
uk among ['ru', 'pl'] -> ru 24
yue among ['zh', 'en'] -> und 1000
zh among ['zh-TW', 'zh-HK'] -> und 1000
END

"$work/env/bin/python" - > seen <<'END'
from langcodes import closest_match

for code, supported in (("ca", ["es", "fr"]), ("eu", ["es", "fr"]), ("br", ["fr", "en"]), ("cy", ["en", "fr"]), ("ga", ["en"]),
                        ("be", ["ru", "pl"]), ("uk", ["ru", "pl"]), ("yue", ["zh", "en"]), ("zh", ["zh-TW", "zh-HK"])):
    print(code, "among", supported, "->", *closest_match(code, supported))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(langcodes|language-data)==' || true
cat seen
diff expected seen || { echo "CHANGED: closest matches changed"; exit 1; }
echo "as stated"
