"""Make a GGUF of the newest good checkpoint: `python export.py CHECKPOINTS DATA FILE`.

A GGUF that loads proves nothing: without the name of its pre-tokenizer, with special tokens that
are ordinary ones, or with its attention permuted for another rotary layout, it loads without an
error and talks nonsense. So the engine that will serve the file is asked first: it must make the
same token ids, and say the same word by word, as torch does. Only then the file gets its name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import model
import torch
import xllamacpp
from safetensors.torch import load_file
from tokenizers import Tokenizer

try:
    from madang import job
except ImportError:  # the file alone, as Madang lays it beside a job
    import job

END, TURN, TURN_OVER = 0, 1, 2
"""Ids of <|endoftext|>, <|im_start|>, <|im_end|>."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRE = "smollm"
"""The pre-tokenizer of llama.cpp that does what prepare.py asks of its own: digits, then bytes."""
ODD = (
    "2026년 11월 26일 🎉", " 앞뒤 빈칸  ", "a1b22c333", "서울 (Seoul) + 12 = ?",
    "나는 I'm 다음\n\n줄", "<|im_end|> 안녕",
)  # fmt: skip
"""Texts that a tokenizer easily makes something else of."""
ASKED_MAX, SAID_MAX = 60, 40
KEY = "only-this-process-asks"


@dataclass(frozen=True)
class Trained:
    """What was trained, ready to be asked."""

    weights: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    questions: list[str]

    def answers(self) -> list[str]:
        """Return what torch says to each question."""
        llama, said = model.load(self.weights), []
        for question in self.questions:
            ids = self.tokenizer.encode(prompt(question)).ids
            said.append(self.tokenizer.decode(model.continued(llama, ids, TURN_OVER, SAID_MAX)))
        return said


def prompt(question: str) -> str:
    """Return what the template makes of a question."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def newest(checkpoints: Path) -> Path:
    """Return the newest checkpoint whose every byte is as it was written; ends where none is."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        if not (fault := job.fault_of(folder)):
            return folder
        print(f"{folder.name} is passed over: {fault}", file=sys.stderr)
    sys.exit(f"{checkpoints} holds no good checkpoint")


def taken(checkpoint: Path, data: Path) -> Trained:
    """Read the weights, the tokenizer and some of the questions, spread over all of them."""
    listed = json.loads((data / "questions.json").read_text(encoding="utf-8"))
    asked = [each["question"] for each in listed]
    return Trained(
        load_file(checkpoint / "model.safetensors"),
        Tokenizer.from_file(str(data / "tokenizer.json")),
        asked[:: max(1, len(asked) // ASKED_MAX)][:ASKED_MAX],
    )


def write(trained: Trained, path: Path) -> None:
    """Write weights, shape and tokenizer as one GGUF of architecture llama, in 32-bit floats."""
    shape = model.Shape(tokens=trained.tokenizer.get_vocab_size())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-llm")
    writer.add_license("apache-2.0")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.tokens)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    describe(trained.tokenizer, writer)
    for name, weights in trained.weights.items():
        writer.add_tensor(name, weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(tokenizer: Tokenizer, writer: gguf.GGUFWriter) -> None:
    """Add the tokenizer: every token in the order of its id, merges, and what is special."""
    said = json.loads(tokenizer.to_str())
    special = {each["id"] for each in said["added_tokens"] if each["special"]}
    count = tokenizer.get_vocab_size()
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list([tokenizer.id_to_token(number) for number in range(count)])
    writer.add_token_types([kinds[number in special] for number in range(count)])
    writer.add_token_merges([" ".join(pair) for pair in said["model"]["merges"]])
    writer.add_bos_token_id(TURN)
    writer.add_eos_token_id(TURN_OVER)
    writer.add_eot_token_id(TURN_OVER)
    writer.add_pad_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


@contextmanager
def served(path: Path) -> Iterator[str]:
    """Yield where the engine serves this file; raises `RuntimeError` where it doesn't load."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.hostnames, settings.port, settings.api_keys = ["127.0.0.1"], 0, [KEY]
    settings.n_ctx, settings.n_parallel, settings.cache_ram_mib = model.Shape(0).context, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.fit_params = settings.ui = False
    settings.use_jinja, settings.cors_origins = True, ""
    settings.verbosity = 0
    server = xllamacpp.Server(settings)
    yield server.listening_address
    del server


def ask(address: str, way: str, **body: Any) -> Any:
    """Ask the engine one thing."""
    request = urllib.request.Request(
        f"{address}{way}", json.dumps(body).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def differences(trained: Trained, address: str) -> Iterator[str]:
    """Yield in what the engine differs from torch: token ids first, then what it says."""
    for text in (*map(prompt, trained.questions), *ODD):
        ids = trained.tokenizer.encode(text).ids
        found = ask(address, "/tokenize", content=text, add_special=False, parse_special=True)
        if found["tokens"] != ids:
            yield f"{text!r} becomes other tokens: {found['tokens']} and not {ids}"
    for question, said in zip(trained.questions, trained.answers(), strict=True):
        messages = [{"role": "user", "content": question}]
        found = ask(
            address, "/v1/chat/completions", messages=messages, temperature=0, max_tokens=SAID_MAX
        )
        answer = found["choices"][0]["message"]["content"]
        if answer != said:
            yield f"to {question!r} it says {answer!r}, and torch {said!r}"


def main() -> None:
    """Write beside the place, have it checked, and only then put it there."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("checkpoints", "data", "file"):
        reader.add_argument(name, type=Path)
    asked = reader.parse_args()
    torch.set_num_threads(1)
    checkpoint = newest(asked.checkpoints)
    trained = taken(checkpoint, asked.data)
    new = asked.file.with_name(f".{asked.file.name}.new")
    new.unlink(missing_ok=True)
    try:
        write(trained, new)
        with served(new) as address:
            if found := next(differences(trained, address), None):
                sys.exit(f"the engine does not say what torch says: {found}")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(asked.file)
    finally:
        new.unlink(missing_ok=True)
    print(f"{asked.file} is {checkpoint.name}: {len(trained.questions)} answers are torch's own")


if __name__ == "__main__":
    main()
