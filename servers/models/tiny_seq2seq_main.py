"""Makes a tiny MarianMT encoder-decoder in Hugging Face's format, without a network, and trains it for some seconds.

It learns word-for-word renderings of made-up sentences from a lexicon of some forty words, so that its answers are
words and end where a sentence ends. It stands in for a real translation model where protocol, batching and queueing
are looked at; what it says of any other sentence is no translation. The same seed gives the same model on one machine.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

LANGUAGES = ("fr", "de", "es")
LEXICON: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "subject": (
        ("I", "je", "ich", "yo"),
        ("we", "nous", "wir", "nosotros"),
        ("the doctor", "le médecin", "der Arzt", "el médico"),
        ("the teacher", "le professeur", "der Lehrer", "el profesor"),
        ("my sister", "ma sœur", "meine Schwester", "mi hermana"),
        ("your brother", "ton frère", "dein Bruder", "tu hermano"),
        ("the child", "l'enfant", "das Kind", "el niño"),
        ("a friend", "un ami", "ein Freund", "un amigo"),
    ),
    "verb": (
        ("sees", "voit", "sieht", "ve"),
        ("wants", "veut", "will", "quiere"),
        ("buys", "achète", "kauft", "compra"),
        ("needs", "nécessite", "braucht", "necesita"),
        ("finds", "trouve", "findet", "encuentra"),
        ("has", "a", "hat", "tiene"),
    ),
    "object": (
        ("a ticket", "un billet", "eine Karte", "un billete"),
        ("the key", "la clé", "den Schlüssel", "la llave"),
        ("some water", "de l'eau", "etwas Wasser", "un poco de agua"),
        ("the red house", "la maison rouge", "das rote Haus", "la casa roja"),
        ("a table for two", "une table pour deux", "einen Tisch für zwei", "una mesa para dos"),
        ("the next train", "le prochain train", "den nächsten Zug", "el próximo tren"),
        ("my phone", "mon téléphone", "mein Telefon", "mi teléfono"),
        ("the big dog", "le grand chien", "den großen Hund", "el perro grande"),
    ),
    "end": (
        ("", "", "", ""),
        ("today", "aujourd'hui", "heute", "hoy"),
        ("tomorrow morning", "demain matin", "morgen früh", "mañana por la mañana"),
        ("at the station", "à la gare", "am Bahnhof", "en la estación"),
        ("near the hotel", "près de l'hôtel", "beim Hotel", "cerca del hotel"),
    ),
}
PIECES = 320
STEPS = 120
BATCH = 32
LEARNING_RATE = 4e-3
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def sentence_pair(rng: random.Random) -> tuple[str, str]:
    """An English sentence that opens with its target language, and its rendering."""
    language = rng.randrange(len(LANGUAGES))
    parts = [rng.choice(entries) for entries in LEXICON.values()]
    sides = [" ".join(part[side] for part in parts if part[side]) + "." for side in (0, 1 + language)]
    return f">>{LANGUAGES[language]}<< {sides[0]}", sides[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="a directory that is made")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.target.mkdir(parents=True)
    make_tokenizer(options.target)
    train(options.target, options.seed)


def make_tokenizer(target: Path) -> None:
    import sentencepiece as spm

    corpus = [side for entries in LEXICON.values() for words in entries for side in words if side] * 3
    markers = [f">>{language}<<" for language in LANGUAGES]
    # Pieces for every letter, so that any sentence can be read.
    letters = "".join(map(chr, range(33, 127))) + "àâäçéèêëíîïñóôöúùûüßœÀÂÄÇÉÈÊÍÑÓÖÚÜ¿¡€"
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus, " ".join(letters)]),
        model_prefix=str(target / "source"),
        vocab_size=PIECES,
        character_coverage=1.0,
        user_defined_symbols=markers,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (target / "source.vocab").unlink()
    (target / "target.spm").write_bytes((target / "source.model").read_bytes())
    (target / "source.model").rename(target / "source.spm")
    model = spm.SentencePieceProcessor(model_file=str(target / "source.spm"))
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    special = [END, UNKNOWN]
    words = [*special, *(piece for piece in pieces if piece not in (*special, "<s>")), PAD]
    vocabulary = {piece: index for index, piece in enumerate(words)}
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": "en",
        "target_lang": "mul",
        "model_max_length": 128,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def train(target: Path, seed: int) -> None:
    import sentencepiece as spm
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.set_num_threads(1)  # the same sums in the same order, and no slower at this size
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    rng = random.Random(seed)
    vocabulary = json.loads((target / "vocab.json").read_text(encoding="utf-8"))
    pieces = spm.SentencePieceProcessor(model_file=str(target / "source.spm"))
    end, unknown, pad = vocabulary[END], vocabulary[UNKNOWN], vocabulary[PAD]
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=96,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        max_position_embeddings=128,
        activation_function="swish",
        scale_embedding=True,
        dropout=0.0,
        pad_token_id=pad,
        eos_token_id=end,
        forced_eos_token_id=end,
        decoder_start_token_id=pad,
        share_encoder_decoder_embeddings=True,
    )
    model = MarianMTModel(config)

    def ids(text: str) -> list[int]:
        return [*(vocabulary.get(piece, unknown) for piece in pieces.encode(text, out_type=str)), end]

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for _ in range(STEPS):
        pairs = [sentence_pair(rng) for _ in range(BATCH)]
        source = padded([ids(pair[0]) for pair in pairs], pad)
        labels = padded([ids(pair[1]) for pair in pairs], -100)
        loss = model(input_ids=source, attention_mask=source != pad, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            # Decoding starts from it, and in Marian's models it is zero; the output layer, which shares the matrix,
            # would move it.
            model.get_input_embeddings().weight[pad] = 0
    print(f"progress: trained for {STEPS} steps, last loss {loss.item():.3f}")
    model.save_pretrained(target)


if __name__ == "__main__":
    main()
