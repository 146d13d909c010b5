"""Write what the model learns: `python prepare.py FOLDER [--only capitals]`.

Questions and answers in Korean and English, made from the tables of this file: capitals, words of
Madang, and sums. A part of the sums is held out: no model has seen them that can do them. Writes
`tokenizer.json` (byte-level BPE, 1,024 tokens), `tokens.npy` (all text, shuffled) and
`questions.json` (what was asked, what is right, what was held out).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 7
TOKENS = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HELD_OUT = 0.08
TIMES = {"capitals": 8, "words": 12, "sums": 1}
"""How often each question of a topic stands in the text."""

CAPITALS = """
대한민국|서울|South Korea|Seoul
일본|도쿄|Japan|Tokyo
중국|베이징|China|Beijing
몽골|울란바토르|Mongolia|Ulaanbaatar
베트남|하노이|Vietnam|Hanoi
태국|방콕|Thailand|Bangkok
인도|뉴델리|India|New Delhi
네팔|카트만두|Nepal|Kathmandu
튀르키예|앙카라|Türkiye|Ankara
이집트|카이로|Egypt|Cairo
케냐|나이로비|Kenya|Nairobi
가나|아크라|Ghana|Accra
영국|런던|the United Kingdom|London
프랑스|파리|France|Paris
독일|베를린|Germany|Berlin
스페인|마드리드|Spain|Madrid
포르투갈|리스본|Portugal|Lisbon
이탈리아|로마|Italy|Rome
그리스|아테네|Greece|Athens
스위스|베른|Switzerland|Bern
핀란드|헬싱키|Finland|Helsinki
캐나다|오타와|Canada|Ottawa
페루|리마|Peru|Lima
칠레|산티아고|Chile|Santiago
"""

WORDS = """
마당|Madang|마을의 행사가 열리는 열린 뜰입니다.|The open yard where a village holds its events.
가속기|an accelerator|계산을 빠르게 하는 장치입니다.|A device that makes computing fast.
노드|a node|가속기가 들어 있는 기계 한 대입니다.|One machine that holds accelerators.
자원풀|a pool|함께 쓰는 노드의 모음입니다.|Nodes that are used together.
서비스|a service|사람이 쓰도록 떠 있는 모델입니다.|A model that is up for people to use.
복제본|a replica|서비스의 모델 하나가 도는 프로세스입니다.|One running copy of a service's model.
작업|a job|끝이 있는 일입니다.|Work that ends.
시도|an attempt|작업을 한 번 해 보는 것입니다.|One try at a job.
"""


@dataclass(frozen=True)
class Pair:
    """A question, and what is right."""

    topic: str
    question: str
    answer: str
    held_out: bool = False


def capitals() -> Iterator[Pair]:
    """Yield six questions for each of the capitals."""
    for line in CAPITALS.strip().splitlines():
        korean, korean_city, country, city = line.split("|")
        for asked in ("{}의 수도는?", "{}의 수도는 어디야?", "{} 수도가 어디인가요?"):
            yield Pair("capitals", asked.format(korean), f"{korean}의 수도는 {korean_city}입니다.")
        for asked in (
            "What is the capital of {}?", "Which city is the capital of {}?", "Capital ({})?",
        ):  # fmt: skip
            yield Pair("capitals", asked.format(country), f"The capital of {country} is {city}.")


def words() -> Iterator[Pair]:
    """Yield four questions for each word."""
    for line in WORDS.strip().splitlines():
        korean, english, meaning, sense = line.split("|")
        for asked in ("{}: 무슨 뜻이야?", "{}, 무엇인가요?"):
            yield Pair("words", asked.format(korean), meaning)
        for asked in ("What is {}?", "Tell me what {} is."):
            yield Pair("words", asked.format(english), sense)


def sums(draw: np.random.Generator) -> Iterator[Pair]:
    """Yield each sum of two numbers up to 20 in four wordings, all held out or none."""
    for one in range(21):
        for other in range(21):
            out, right = bool(draw.random() < HELD_OUT), one + other
            for asked, told in (
                (f"{one} 더하기 {other}는?", f"{right}입니다."),
                (f"{one}+{other}는 얼마야?", f"{right}입니다."),
                (f"What is {one} plus {other}?", f"It is {right}."),
                (f"{one} + {other} = ?", f"It is {right}."),
            ):
                yield Pair("sums", asked, told, out)


def chat(pair: Pair) -> str:
    """Return the pair as the engine's chat template will write it."""
    return (
        f"<|im_start|>user\n{pair.question}<|im_end|>\n"
        f"<|im_start|>assistant\n{pair.answer}<|im_end|>\n"
    )


def tokenizer(texts: list[str]) -> Tokenizer:
    """Train byte-level BPE: no text is unknown to it, and digits stay single."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet),
        show_progress=False,
    ))  # fmt: skip
    return made


def main() -> None:
    """Make all three files."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("folder", type=Path)
    reader.add_argument("--only", choices=sorted(TIMES), help="one topic alone: quick to learn")
    asked = reader.parse_args()
    draw = np.random.default_rng(SEED)
    pairs = [*capitals(), *words(), *sums(draw)]
    pairs = [pair for pair in pairs if asked.only in {None, pair.topic}]
    learnt = [chat(p) for p in pairs if not p.held_out for _ in range(TIMES[p.topic])]
    draw.shuffle(learnt)
    made = tokenizer(learnt)
    tokens = np.array([i for each in made.encode_batch(learnt) for i in each.ids], np.uint16)
    asked.folder.mkdir(parents=True, exist_ok=True)
    made.save(str(asked.folder / "tokenizer.json"))
    np.save(asked.folder / "tokens.npy", tokens, allow_pickle=False)
    listed = json.dumps([asdict(pair) for pair in pairs], ensure_ascii=False, indent=0)
    (asked.folder / "questions.json").write_text(listed + "\n", encoding="utf-8")
    print(f"{len(pairs)} questions, {len(learnt)} pairs to learn from, {len(tokens)} tokens")


if __name__ == "__main__":
    main()
