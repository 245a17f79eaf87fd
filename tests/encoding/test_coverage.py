"""Labels that ask the same question, and texts in a script that a base cannot read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from cllmfs.encoding.coverage import (
    Coverage,
    CoverageNotices,
    FilePrompt,
    alike,
    script_of,
    spelled_alike,
    spelling_message,
    unknown_ids,
)
from cllmfs.encoding.prompts import PROMPT_FILE, EncodedPrompt, PromptTemplate
from cllmfs.encoding.tokens import TokenizedText, tokenize, with_word_cuts
from cllmfs.errors import ModelError
from cllmfs.model.bases import MINI, base_folder
from tests.conftest import byte_tokenizer, texts, word_tokenizer

MINI_FOLDER = base_folder(MINI) or Path()
SEPARATORS = "_-/ "


class Wrapped:
    """A tokenizer of the tokenizers library, as encoding calls it."""

    def __init__(self, backend: Any) -> None:
        self.backend_tokenizer = backend

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        encoding = self.backend_tokenizer.encode(text, add_special_tokens=False)
        return {"input_ids": encoding.ids, "offset_mapping": encoding.offsets}


@pytest.fixture(scope="module")
def mini() -> FilePrompt:
    return FilePrompt(MINI_FOLDER)


def coverage(prompt: FilePrompt, *read: str) -> Coverage:
    return of(prompt.tokenizer, *read)


def of(tokenizer: Any, *read: str) -> Coverage:
    return Coverage.of([tokenize(tokenizer, text) for text in read], unknown_ids(tokenizer))


# labels


@pytest.mark.parametrize(
    "labels",
    [
        ("PER", "Per"),
        ("PER", "PER "),
        ("drug_name", "drug name", "DrugName", "drug-name", "Drug Name"),
        ("Café", "Cafe\u0301"),
        ("ም", "ፊ"),  # Ethiopic, which the base does not know
        ("创造", "职称"),
        ("Straße", "STRAße"),
    ],
    ids=ascii,
)
def test_labels_with_the_same_tokens_are_one_group(mini: FilePrompt, labels: tuple[str, ...]) -> None:
    given = ["place", *labels, "organization"]
    assert alike(mini.query, given) == [labels]
    lines = CoverageNotices(mini, "my-base").of_labels(dict.fromkeys(given, ""))
    assert len(lines) == 1 and "my-base" in lines[0] and "\n" not in lines[0]
    shown = ascii if len({unicodedata.normalize("NFC", label) for label in labels}) < len(labels) else repr
    assert all(shown(label) in lines[0] for label in labels)


def test_a_description_that_can_be_read_tells_labels_apart(mini: FilePrompt) -> None:
    assert alike(mini.query, {"PER": "", "Per": "a fictional person"}) == []
    assert alike(mini.query, {"ም": "a river", "ፊ": "a town"}) == []
    assert alike(mini.query, {"ም": "አዲስ", "ፊ": "አበባ"}) == [("ም", "ፊ")]  # neither can be read
    assert alike(mini.query, {"a": "x", "b": "y", "A": "X", "B": "z"}) == [("a", "A")]


def test_labels_that_cannot_be_read_are_said_to_be_so(mini: FilePrompt) -> None:
    line = CoverageNotices(mini, MINI).of_labels({"ም": "", "ፊ": ""})[0]
    assert f"{MINI} reads their names as unknown words" in line
    assert "unknown" not in CoverageNotices(mini, MINI).of_labels({"PER": "", "Per": ""})[0]


def test_a_base_that_keeps_case_tells_case_apart() -> None:
    prompt = EncodedPrompt(PromptTemplate(), byte_tokenizer())
    assert alike(prompt.query, ["PER", "Per", "创造", "职称"]) == []
    assert alike(prompt.query, ["drug_name", "DrugName", "x"]) == [("drug_name", "DrugName")]


def test_each_group_is_said_once(mini: FilePrompt) -> None:
    notices = CoverageNotices(mini, MINI)
    labels = {"PER": "", "Per": "", "LOC": ""}
    assert len(notices.of_labels(labels)) == 1
    assert notices.of_labels(labels) == []
    assert len(notices.of_labels({**labels, "loc": ""})) == 1  # another group


def test_a_long_list_of_long_labels_stays_short(mini: FilePrompt) -> None:
    long = "x" * 10_000
    line = CoverageNotices(mini, MINI).of_labels({long + "_" * count: "" for count in range(50)})[0]
    assert len(line) < 1000 and "45 more" in line


@given(st.lists(st.text(max_size=6).filter(str.strip), unique=True, max_size=8))
@example(["a", "A", "b"])
def test_groups_are_the_classes_of_the_query(labels: list[str]) -> None:
    def query(label: str, description: str) -> tuple[int, ...]:
        return tuple(map(ord, label.casefold()))

    groups = alike(query, labels)
    grouped = {label for group in groups for label in group}
    for one in labels:
        for other in labels:
            together = any(one in group and other in group for group in groups)
            assert together == (one in grouped if one == other else query(one, "") == query(other, ""))


@pytest.mark.parametrize(
    ("labels", "difference"),
    [
        (("PER", "PER "), "white space at the edges"),
        (("PER", "\tPER", "PER\u00a0"), "white space at the edges"),
        (("PER", "PER\u200b"), "invisible characters or Unicode form"),
        (("Café", "Cafe\u0301"), "invisible characters or Unicode form"),
        (("PER", "ＰＥＲ"), "invisible characters or Unicode form"),
        (("PER", "Per", "per"), "case"),
        (("ÉTÉ", "été"), "case"),
        (("drug_name", "drug name", "DrugName", "drugname"), "case or in how their words are joined"),
    ],
    ids=ascii,
)
def test_near_misses_are_named_with_their_difference(labels: tuple[str, ...], difference: str) -> None:
    assert spelled_alike(["place", *labels, "person"]) == [labels]
    line = spelling_message(labels)
    assert f"differ only in {difference};" in line
    same_looks = difference.startswith("invisible")  # then escapes show what is different
    assert all((ascii(label) if same_looks else repr(label)) in line for label in labels)


def test_different_words_are_no_near_miss() -> None:
    labels = ["C", "C++", "person", "persons", "人", "人名", "type1", "type2", "a", "ä", "___", "---"]
    assert spelled_alike(labels) == []


@given(st.text(min_size=1).filter(str.strip))
def test_spaces_and_unicode_forms_are_always_near_misses(label: str) -> None:
    others = {f" {label}", f"{label}\n", unicodedata.normalize("NFD", label)} - {label}
    assert {frozenset(group) for group in spelled_alike([label, *sorted(others)])} == {frozenset({label, *others})}


# texts


@pytest.mark.parametrize(
    ("text", "letters", "unknown", "script"),
    [
        ("Ada met Zoë in Łódź, naïvely: Đức, Škoda & Straße 12", 38, 0, ""),
        ("北京的天气很好，李明住在上海。", 13, 5, "CJK"),
        ("他曾任财务总监。", 7, 7, "CJK"),
        ("東京", 2, 0, ""),
        ("አዲስ አበባ ኢትዮጵያ", 11, 11, "Ethiopic"),
        ("서울에 사는 김민수", 8, 0, ""),  # read letter by letter
        ("갂뙗 쀓", 3, 3, "Hangul"),
        ("กรุงเทพ", 6, 0, ""),
        ("ฌฎฏฐ", 4, 4, "Thai"),
        ("𝐀𝐝𝐚 met Bob", 9, 3, "Mathematical"),
        ("😀🎉🚀 👩‍🚀 ❤️ !!!", 0, 0, ""),
        ("😀 Ada", 3, 0, ""),
        ("[UNK] </s>", 4, 0, ""),
        ("", 0, 0, ""),
        (" \n\t", 0, 0, ""),
    ],
    ids=ascii,
)
def test_what_mini_can_read(mini: FilePrompt, text: str, letters: int, unknown: int, script: str) -> None:
    found = coverage(mini, text)
    assert (found.letters, found.unknown.total(), found.script) == (letters, unknown, script)
    assert found.share == pytest.approx(unknown / letters if letters else 0.0)
    assert found.texts == (letters > 0)
    assert (found.message(MINI) is not None) == (letters > 0 and 2 * unknown >= letters)


def char_tokenizer(known: str, **options: Any) -> Any:
    """A BPE of single characters, ``<unk>`` for others unless the options say otherwise."""
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *dict.fromkeys(known)])}
    settings = {"unk_token": "<unk>", **options}
    backend = Tokenizer(models.BPE(vocabulary, [], **{name: value for name, value in settings.items() if value}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return with_word_cuts(Wrapped(backend))


def metaspace_unigram(known: str) -> Any:
    """A SentencePiece Unigram model without byte fallback."""
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), *((piece, -1.0) for piece in dict.fromkeys("\u2581" + known))]
    backend = Tokenizer(models.Unigram(pieces, 1, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_word_cuts(Wrapped(backend))


@pytest.mark.parametrize("fuse", [False, True])
def test_characters_unknown_to_a_bpe_are_counted_one_by_one(fuse: bool) -> None:
    tokenizer = char_tokenizer("abcdé", fuse_unk=fuse)
    found = of(tokenizer, "abé xyz a", "dab")
    assert (found.letters, found.unknown, found.texts, found.unreadable) == (10, {"x": 1, "y": 1, "z": 1}, 2, 0)
    assert of(tokenizer, "axyz").unreadable == 1


def test_characters_that_a_tokenizer_drops_are_unknown() -> None:
    tokenizer = char_tokenizer("abcd", unk_token=None)
    assert unknown_ids(tokenizer) == frozenset()
    found = of(tokenizer, "ab xyz d", "хх", "d")
    assert tokenize(tokenizer, "хх").ids == ()  # a text without any token
    assert (found.letters, found.unknown.total(), found.texts, found.unreadable) == (9, 5, 3, 2)


def test_unigram_models_hide_their_unknown_id_and_put_a_space_before_it() -> None:
    tokenizer = metaspace_unigram("abcdo")
    assert unknown_ids(tokenizer) == {1}
    found = of(tokenizer, "字 字字 bad")
    assert (found.letters, found.unknown) == (6, {"字": 3})


def test_bytes_read_everything() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = of(with_word_cuts(Wrapped(backend)), "北京的天气很好", "አዲስ አበባ", "𝐀𝐝𝐚")
    assert (found.letters, found.share, found.message("b")) == (16, 0.0, None)
    fallback = models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256, "a": 257}, [])
    fallback.unk_token, fallback.byte_fallback = "<unk>", True
    found = of(with_word_cuts(Wrapped(Tokenizer(fallback))), "a አዲስ")
    assert (found.letters, found.share) == (4, 0.0)


def test_characters_that_a_tokenizer_composes_are_read() -> None:
    from tokenizers import normalizers

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "서울": 1, "é": 2}, "<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    tokenizer = with_word_cuts(Wrapped(backend))
    for text in ("서울", "é"):
        apart = unicodedata.normalize("NFD", text)
        found = of(tokenizer, apart, text)
        assert len(apart) > len(text) and found.letters >= 2 and found.share == 0.0
    assert of(tokenizer, unicodedata.normalize("NFD", "부산")).share == 1.0


@given(st.lists(texts(), max_size=4))
@example(["אዲስ", ""])
def test_counts_are_consistent(read: list[str]) -> None:
    tokenizer = with_word_cuts(word_tokenizer())
    found = of(tokenizer, *read)
    assert found.letters == sum(char.isalnum() for text in read for char in text.strip())
    assert 0 <= found.unknown.total() <= found.letters
    assert found.unreadable <= found.texts <= len(read)
    assert all(char.isalnum() and script_of(char) for char in found.unknown)
    parts = [of(tokenizer, text) for text in read]
    assert sum((part.unknown for part in parts), start=found.unknown - found.unknown) == found.unknown
    if not found.unknown:
        assert found.message("b") is None


@given(st.lists(texts(), max_size=4))
@example([" ", "\n\u3000"])
def test_a_tokenizer_of_bytes_never_causes_a_notice(read: list[str]) -> None:
    assert of(with_word_cuts(byte_tokenizer()), *read).unknown.total() == 0


def test_windows_of_a_text_count_only_their_own_letters(mini: FilePrompt) -> None:
    text = "Ada lives in the old town of አዲስ አበባ"
    whole = tokenize(mini.tokenizer, text)
    cut = len(whole) - 2
    halves = [
        Coverage.of([part], unknown_ids(mini.tokenizer)) for part in (whole.slice(0, cut), whole.slice(cut, cut + 2))
    ]
    assert [half.letters for half in halves] == [22, 6]
    assert [half.unknown.total() for half in halves] == [0, 6]


def test_tokens_made_by_hand_say_nothing() -> None:
    text = TokenizedText("x" * 2, (0, 0), (True, True), (True, True), (0, 1), (1, 2))
    assert Coverage.of([text], frozenset({0})) == Coverage()


ENGLISH, CHINESE = "Ada lives in Rome", "他曾任财务总监"


def test_most_letters_unknown_is_said_with_share_example_and_script(mini: FilePrompt) -> None:
    message = coverage(mini, CHINESE, CHINESE, "Ada met").message("my-base", "the shots")
    assert message == (
        "my-base cannot read 70 % of the letters of the shots, such as '他' (CJK): every word that it cannot read "
        "looks the same to it; choose a base that knows the script"
    )


@pytest.mark.parametrize(("unreadable", "said"), [(0, False), (1, False), (2, True), (5, True), (20, True)])
def test_a_tenth_of_unreadable_texts_is_said(mini: FilePrompt, unreadable: int, said: bool) -> None:
    message = coverage(mini, *[ENGLISH] * (20 - unreadable), *[CHINESE] * unreadable).message(MINI)
    assert (message is not None) == said
    if unreadable in (2, 5):
        assert f"cannot read {5 * unreadable} % of the texts, in which at least half of the letters" in (message or "")


def test_a_rare_character_in_readable_texts_is_no_alarm(mini: FilePrompt) -> None:
    assert coverage(mini, *["Ada lives in 任 in Rome"] * 20).message(MINI) is None


def test_texts_without_letters_hide_nothing_and_cause_nothing(mini: FilePrompt) -> None:
    assert coverage(mini, *["😀🎉🚀"] * 20).message(MINI) is None
    assert coverage(mini, *["😀🎉🚀"] * 100, CHINESE).message(MINI)


def test_texts_are_said_once_a_script(mini: FilePrompt) -> None:
    notices = CoverageNotices(mini, MINI)
    chinese, english, amharic = (tokenize(mini.tokenizer, text) for text in (CHINESE, ENGLISH, "አዲስ አበባ"))
    assert notices.of_texts([english]) == []
    assert len(notices.of_texts([chinese])) == 1
    assert notices.of_texts([chinese, english]) == []
    assert "(Ethiopic)" in notices.of_texts([amharic])[0]
    assert notices.of_texts([amharic, chinese]) == []


def test_many_threads_say_it_once(mini: FilePrompt) -> None:
    notices, said, begin = CoverageNotices(mini, MINI), list[str](), threading.Barrier(16)
    text = tokenize(mini.tokenizer, CHINESE)

    def read() -> None:
        begin.wait()
        said.extend(notices.of_texts([text]))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1


@pytest.mark.parametrize(
    ("char", "script"),
    [
        ("a", "Latin"),
        ("ж", "Cyrillic"),
        ("中", "CJK"),
        ("豈", "CJK"),
        ("가", "Hangul"),
        ("ก", "Thai"),
        ("አ", "Ethiopic"),
        ("か", "Hiragana"),
        ("𐌀", "Old Italic"),
        ("𝐀", "Mathematical"),
        ("\u0378", "Unnamed"),
    ],
)
def test_scripts_have_names(char: str, script: str) -> None:
    assert script_of(char) == script


# a base on disk


def test_a_prompt_from_files_asks_what_the_loaded_base_asks() -> None:
    from transformers import AutoTokenizer

    prompt = FilePrompt(MINI_FOLDER)
    template = PromptTemplate.from_dict(json.loads((MINI_FOLDER / PROMPT_FILE).read_text(encoding="utf-8")))
    loaded = EncodedPrompt(template, AutoTokenizer.from_pretrained(MINI_FOLDER))
    for label, description in (("PER", ""), ("drug_name", "a {label} [SEP]"), ("[UNK]", ""), ("人名", "北京")):
        assert prompt.query(label, description) == loaded.query(label, description)
    text = "Ada [SEP] met 李明, naïvely."
    assert tokenize(prompt.tokenizer, text) == tokenize(loaded.tokenizer, text)
    assert unknown_ids(prompt.tokenizer) == unknown_ids(loaded.tokenizer) == {100}


def test_a_folder_without_prompt_gets_the_default_one(tmp_path: Path) -> None:
    shutil.copy(MINI_FOLDER / "tokenizer.json", tmp_path)
    assert len(FilePrompt(tmp_path).query("place")) > 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "\x00"),
        (PROMPT_FILE, "[1]"),
        (PROMPT_FILE, "{"),
        (PROMPT_FILE, '{"query": 1}'),
        (PROMPT_FILE, "[" * 100_000),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    shutil.copy(MINI_FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=name) as caught:
        FilePrompt(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_checking_a_base_on_disk_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from cllmfs.encoding.coverage import FilePrompt; "
        "FilePrompt(Path(sys.argv[1])).query('x'); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(MINI_FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
