"""Languages of texts: their tags (BCP 47) in caption files, and three-letter codes in mp4 files."""

import re

# English names -> ISO 639-1, as model cards name languages.
_NAMES = {
    "arabic": "ar",
    "bengali": "bn",
    "chinese": "zh",
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "hindi": "hi",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "polish": "pl",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
    "swedish": "sv",
    "tamil": "ta",
    "thai": "th",
    "turkish": "tr",
    "ukrainian": "uk",
    "urdu": "ur",
    "vietnamese": "vi",
}
# ISO 639-1, then the terminological code of ISO 639-2.
_CODES = """
aa aar ab abk ae ave af afr ak aka am amh an arg ar ara as asm av ava ay aym az aze ba bak be bel
bg bul bi bis bm bam bn ben bo bod br bre bs bos ca cat ce che ch cha co cos cr cre cs ces cu chu
cv chv cy cym da dan de deu dv div dz dzo ee ewe el ell en eng eo epo es spa et est eu eus fa fas
ff ful fi fin fj fij fo fao fr fra fy fry ga gle gd gla gl glg gn grn gu guj gv glv ha hau he heb
hi hin ho hmo hr hrv ht hat hu hun hy hye hz her ia ina id ind ie ile ig ibo ii iii ik ipk io ido
is isl it ita iu iku ja jpn jv jav ka kat kg kon ki kik kj kua kk kaz kl kal km khm kn kan ko kor
kr kau ks kas ku kur kv kom kw cor ky kir la lat lb ltz lg lug li lim ln lin lo lao lt lit lu lub
lv lav mg mlg mh mah mi mri mk mkd ml mal mn mon mr mar ms msa mt mlt my mya na nau nb nob nd nde
ne nep ng ndo nl nld nn nno no nor nr nbl nv nav ny nya oc oci oj oji om orm or ori os oss pa pan
pi pli pl pol ps pus pt por qu que rm roh rn run ro ron ru rus rw kin sa san sc srd sd snd se sme
sg sag si sin sk slk sl slv sm smo sn sna so som sq sqi sr srp ss ssw st sot su sun sv swe sw swa
ta tam te tel tg tgk th tha ti tir tk tuk tl tgl tn tsn to ton tr tur ts tso tt tat tw twi ty tah
ug uig uk ukr ur urd uz uzb ve ven vi vie vo vol wa wln wo wol xh xho yi yid yo yor za zha zh zho
zu zul
"""
_THREE_LETTERS: dict[str, str] = dict(
    re.findall(r"([a-z]{2}) ([a-z]{3})", " ".join(_CODES.split()))
)
_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")
UNKNOWN = "und"  # of ISO 639-2


def is_tag(text: str) -> bool:
    """Return True for the tag of a language, such as "de", "deu" or "de-CH"."""
    return _TAG.fullmatch(text) is not None


def language_tag(language: str) -> str:
    """The tag of a language that is given by its English name or as a tag; "" if not known."""
    name = language.strip()
    return _NAMES.get(name.lower(), name if is_tag(name) else "")


def three_letter_code(tag: str) -> str:
    """The code of ISO 639-2 of a tag's language; `UNKNOWN` for "" and where there is none."""
    language = tag.partition("-")[0]
    return _THREE_LETTERS.get(language, language if len(language) == 3 else UNKNOWN)
