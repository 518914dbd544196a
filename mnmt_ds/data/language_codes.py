"""One code for every language, whatever standard a recipe's code follows, to compare texts by their language.

Known are ISO 639-1, 639-3 and 639-2/B (en, eng, ger), FLORES-200 and NLLB (eng_Latn), M2M-100 and mBART (en_XX), POSIX
locales (pt_BR.UTF-8, sr@latin) and BCP 47 (zh-Hans). The canonical code is the two-letter one where there is one.
Country and script are left out: texts of one language in two scripts count as one language, and so do a macrolanguage
and its main member (zh and cmn, ar and arb, no and nb). The table is written out here and not taken from an installed
package, since held-out sets depend on it.
"""

import re

_GROUPS = (
    "aa aar; ab abk; ae ave; af afr; ak aka tw twi; am amh; an arg; ar ara arb; as asm; av ava; ay aym ayr; az aze "
    "azj; ba bak; be bel; bg bul; bho bh bih; bi bis; bm bam; bn ben; bo bod tib; br bre; bs bos; ca cat; ce che; "
    "ch cha; co cos; cr cre; cs ces cze; cu chu; cv chv; cy cym wel; da dan; de deu ger; dv div; dz dzo; ee ewe; el "
    "ell gre; en eng; eo epo; es spa; et ekk est; eu baq eus; fa fas per pes prs; ff ful fuv; fi fin; fj fij; fo "
    "fao; fr fra fre; fy fry; ga gle; gd gla; gl glg; gn grn gug; gu guj; gv glv; ha hau; he heb iw; hi hin; ho "
    "hmo; hr hrv scr; ht hat; hu hun; hy arm hye; hz her; ia ina; id in ind; ie ile; ig ibo; ii iii; ik ipk; io "
    "ido; is ice isl; it ita; iu ike iku; ja jpn; jv jav jw; ka geo kat; kg kng kon; ki kik; kj kua; kk kaz; kl "
    "kal; km khm; kn kan; ko kor; kok gom; kr kau knc; ks kas; ku kmr kur; kv kom kpv; kw cor; ky kir; la lat; lb "
    "ltz; lg lug; li lim; ln lin; lo lao; lt lit; lu lub; lv lav lvs; mg mlg plt; mh mah; mi mao mri; mk mac mkd; "
    "ml mal; mn khk mon; mr mar; ms may msa zsm; mt mlt; my bur mya; na nau; nd nde; ne nep npi; ng ndo; nl dut "
    "nld; nn nno; no nb nob nor; nr nbl; nso ns; nv nav; ny nya; oc oci; oj oji; om gaz orm; or ori ory; os oss; pa "
    "pan; pi pli; pl pol; ps pbt pus; pt por; qu que quy; rm roh; rn run; ro mo mol ron rum; ru rus; rw kin; sa "
    "san; sc srd; sd snd; se sme; sg sag; si sin; sk slk slo; sl slv; sm smo; sn sna; so som; sq alb als sqi; sr "
    "hbs scc sh srp; ss ssw; st sot; su sun; sv swe; sw swa swh; ta tam; te tel; tg tgk; th tha; ti tir; tk tuk; tl "
    "fil tgl; tn tsn; to ton; tr tur; ts tso; tt tat; ty tah; ug uig; uk ukr; ur urd; uz uzb uzn; ve ven; vi vie; "
    "vo vol; wa wln; wo wol; xh xho; yi ji ydd yid; yo yor; za zha; zh chi cmn zho; zu zul"
)
"""Groups of codes that mean one language, the canonical one first."""
_CANONICAL = {code: group.split()[0] for group in _GROUPS.split(";") for code in group.split()}
_EXTENDED = frozenset(["zh-cdo", "zh-gan", "zh-hak", "zh-hsn", "zh-lzh", "zh-nan", "zh-wuu", "zh-yue"])
"""Languages that BCP 47 may write after the name of their family."""
_SEPARATOR = re.compile(r"[-_@.]")


def canonical_language(code: str) -> str:
    """Finds the code by which texts in a language are compared.

    >>> [canonical_language(code) for code in ("eng_Latn", "en_XX", "deu", "ger", "sr@latin", "zh-Hans", "xyz")]
    ['en', 'en', 'de', 'de', 'sr', 'zh', 'xyz']

    Args:
        code: a language's code, as a recipe names it.

    Returns:
        The canonical code; the code's own first part in lower case where the table does not have it.
    """
    first, *others = _SEPARATOR.split(code.lower())
    if others and f"{first}-{others[0]}" in _EXTENDED:
        return others[0]
    return _CANONICAL.get(first, first)


def same_language(first: str, second: str) -> bool:
    """Returns whether two codes mean one language.

    Args:
        first: a language's code.
        second: another code.

    Returns:
        Whether their canonical codes are the same.
    """
    return canonical_language(first) == canonical_language(second)


def key_side(source: str, target: str, key_language: str) -> int:
    """Chooses the side of a pair by whose text rows are held out; both directions of a pair choose the same text.

    Args:
        source: the source's code.
        target: the target's code.
        key_language: the language whose text is preferred (``split.key_language``).

    Returns:
        0 for the source, 1 for the target: the side in the key language, else the side whose canonical code comes
        first in the alphabet.
    """
    sides = (source, target)
    in_key_language = [same_language(side, key_language) for side in sides]
    if in_key_language[0] != in_key_language[1]:
        return in_key_language.index(True)
    rank = [(canonical_language(side), _SEPARATOR.split(side.lower())[1:], side) for side in sides]
    return 0 if rank[0] <= rank[1] else 1


def code_in_pair(source: str, target: str, language: str) -> str:
    """Finds how a pair names a language.

    Args:
        source: the source's code.
        target: the target's code.
        language: any code of the language.

    Returns:
        The pair's own code of that language; where no side is in it, ``language`` as it is.
    """
    sides = (source, target)
    side = sides[key_side(source, target, language)]
    return side if same_language(side, language) else language
