"""What hagd uses of `transformers`. Without this file the type checker reads every model of that library: minutes."""

from typing import Any

from torch import nn

class AutoConfig:
    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Any: ...

class AutoModelForCausalLM:
    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Any: ...

class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Any: ...

class GPT2Config:
    def __init__(self, **fields: Any) -> None: ...

class GPT2LMHeadModel(nn.Module):
    config: GPT2Config
    transformer: nn.Module
    lm_head: nn.Linear
    def __init__(self, config: GPT2Config) -> None: ...
    def get_input_embeddings(self) -> nn.Embedding: ...
    def get_output_embeddings(self) -> nn.Linear: ...
