"""A small text encoder in Hugging Face's form, with sentences to audit it on. Nothing is downloaded.

python examples/hugging_face/make.py   → checkpoints/encoder (model and tokenizer), checkpoints/sentences (a dataset)

The model has no head: SimCLR is applied to the mean over its tokens, as sentence encoders are trained.
"""

from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from krepes import SimCLR
from krepes.data import HubSource
from krepes.data.views import TokenDropout
from krepes.encoders.transformers_models import TokenEncoder
from krepes.pretrain import TrainConfig, train

OUT = Path(__file__).parent / "checkpoints"
N, LENGTH, PAD = 200, 12, 0
TOPICS = {
    "sea": "wave boat salt fish tide harbour sail wind",
    "kitchen": "bread salt oven knife pan flour fish soup",
    "weather": "wind rain cloud sun storm frost tide heat",
}
COMMON = ["the", "a", "is", "near", "with", "old", "new", "and"]


def sentences(seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences of 6 to 12 words, and their topics."""
    rng = np.random.default_rng(seed)
    topics = [list(TOPICS)[i % len(TOPICS)] for i in range(N)]
    pools = [TOPICS[t].split() for t in topics]
    return [
        " ".join(str(rng.choice(pool if rng.random() < 0.6 else COMMON)) for _ in range(rng.integers(6, LENGTH + 1)))
        for pool in pools
    ], topics


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A number per word, from 1; 0 is padding."""
    words = ["[PAD]", *sorted({w for text in texts for w in text.split()})]
    rules = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="[PAD]")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    texts, topics = sentences()
    tokenizer = word_tokenizer(texts)
    dataset = datasets.Dataset.from_dict({"text": texts, "topic": topics}, split="train")
    dataset.save_to_disk(str(OUT / "sentences"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, pad_token_id=PAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    encoder = TokenEncoder(model, "mean", PAD, token_types=True)
    objective, settings = SimCLR(temperature=0.5, batch_size=100), TrainConfig(epochs=40, batch_size=100)
    source = HubSource(dataset, "text", tokenizer=tokenizer, length=LENGTH)
    trained = train(encoder, source, TokenDropout(rate=0.2, pad_id=PAD), objective, settings)
    model.save_pretrained(OUT / "encoder")
    tokenizer.save_pretrained(OUT / "encoder")
    print(f"loss {trained.losses[0]:.2f} → {trained.losses[-1]:.2f}; written: {OUT / 'encoder'}")


if __name__ == "__main__":
    main()
