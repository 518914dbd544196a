#!/usr/bin/env bash
# Guessed: py3langid answers zh for written standard Chinese, as langid.py does.
# What is: 0.4.0 has models of Cantonese (yue) and Wu (wuu), and gives standard Chinese to them: of Django's messages
#   that it takes for Chinese of some kind, 29 % of the simplified and 39 % of the traditional ones.
# Seen with: py3langid 0.4.0, Django 5.2; Python 3.11; 2026-11-28
# Why it matters: A filter that keeps lines whose language is zh loses a third of short Chinese text.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check py3langid==0.4.0 Django==5.2
cd "$work"

cat > expected <<'END'
zh_Hans {'zh': 0.71, 'yue': 0.02, 'wuu': 0.27}
zh_Hant {'zh': 0.6, 'yue': 0.25, 'wuu': 0.14}
END

"$work/env/bin/python" - > seen <<'END'
import gettext, pathlib
import django
import py3langid

root = pathlib.Path(django.__file__).parent
for code in ("zh_Hans", "zh_Hant"):
    answers = []
    for path in sorted(root.glob(f"**/locale/{code}/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            messages = gettext.GNUTranslations(file)._catalog
        answers += [py3langid.classify(text)[0] for key, text in messages.items() if key and isinstance(text, str)]
    chinese = [answer for answer in answers if answer in ("zh", "yue", "wuu")]
    print(code, {answer: round(chinese.count(answer) / len(chinese), 2) for answer in ("zh", "yue", "wuu")})
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(py3langid|Django)==' || true
cat seen
diff expected seen || { echo "CHANGED: py3langid tells Chinese otherwise"; exit 1; }
echo "as stated"
