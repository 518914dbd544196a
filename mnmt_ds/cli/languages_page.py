"""The generated page docs/languages.md: every language's codes, by standard and family of models."""

from mnmt_ds.data.family_languages import M2M100, NLLB200
from mnmt_ds.data.language_codes import canonical_language, possible_languages
from mnmt_ds.data.language_groups import GROUPS

_HEAD = """# Language codes

A recipe may name a language by any of its codes: ISO 639-1, 639-2 and 639-3 with their retired codes, M2M-100, mBART
(`en_XX`), FLORES and NLLB (`eng_Latn`), POSIX locales (`pt_BR`, `sr@latin`) and BCP 47 (`zh-Hans`, `zh-yue`, `i-lux`).
Readers, tokenizers, held-out sets and scores ask one table, `mnmt_ds/data/language_groups.py`.

- **Same language**: codes of one row below. Script and country do not count: `zh_Hans` and `zh_Hant`, `pt` and `pt_BR`
  are one language whose held-out sentences are not trained on. `bs`, `hr` and `sr`, `nb` and `nn`, `id` and `ms` are
  different ones.
- **A macrolanguage's code** counts as the member that it means in practice (`no` as Bokmål, `zh` as Mandarin, `ar` as
  Standard Arabic, `sh` as Serbian). Held-out sentences are kept out of all that it may mean: a sentence of a dev set in
  `no` trains neither under `nb` nor under `nn`, one in `yue` not under `zh`.
- **Which file, column, folder or tag a code means**: the one of that very code, else the one that agrees in most.
  Script and country count here: `sr_Latn` never reads `srp_Cyrl`, `pt_BR` never `pt_PT`; `zh_TW`, `zh_HK` and `zh_MO`
  imply Hant, `zh_CN`, `zh_SG` and `zh_MY` Hans, `pa_PK` and `uz_AF` Arab. Of two scripts the one that the language is
  usually written in counts (`ar` is `arb_Arab`). Where several fit, such as `zho_Hans` and `zho_Hant` for `zh`, it is
  an error that names them; TMX takes the first variety of each unit, and says so. Where a macrolanguage's code takes
  one of several members that are there, a line says which.
- `prepare` says what a recipe's codes leave open: `zh` (Hans or Hant), `sr` (Cyrl or Latn), `no`, `sh`, and two codes
  of one language.
- A code that the table does not have is a language of its own.

Languages that have a two-letter code, or that M2M-100 or NLLB-200 knows. *May also mean* is said of the macrolanguage's
own codes alone; of more than eight members eight are shown.

| code | other codes | M2M-100 | NLLB-200, FLORES-200 | may also mean |
|---|---|---|---|---|
"""
_SHOWN = 8


def page() -> str:
    """Writes docs/languages.md.

    Returns:
        Markdown, without the note that all generated pages begin with.
    """
    groups = {codes[0]: codes[1:] for codes in map(str.split, GROUPS.split(";"))}
    known = {canonical_language(code) for code in (*M2M100, *NLLB200)}
    lines = []
    for code in sorted(known | {code for code in groups if len(code) == 2}):
        families = [[name for name in names if canonical_language(name) == code] for names in (M2M100, NLLB200)]
        macro = [name for name in (code, *groups.get(code, ())) if len(possible_languages(name)) > 1]
        others = sorted(set().union(*map(possible_languages, macro)) - {code}) if macro else []
        shown = [*others[:_SHOWN], *(["…"] if len(others) > _SHOWN else [])]
        meaning = f"{', '.join(macro)}: {' '.join(shown)}" if macro else ""
        lines.append(f"| {' | '.join([code, ' '.join(groups.get(code, ())), *map(' '.join, families), meaning])} |")
    return _HEAD + "\n".join(lines) + "\n"
