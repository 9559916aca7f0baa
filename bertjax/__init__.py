"""BERT in JAX and Flax: pre-training and fine-tuning, from a laptop to a Cloud TPU pod.

The names below are the public API. Each is imported at its first use, so that `import bertjax` is
fast and loads neither TensorFlow nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # an alias marks a public name
    from bertjax.api import fit as fit
    from bertjax.config import BertConfig as BertConfig
    from bertjax.config import EncoderDecoderConfig as EncoderDecoderConfig
    from bertjax.config import Execution as Execution
    from bertjax.errors import UserError as UserError
    from bertjax.finetune.config import FinetuneConfig as FinetuneConfig
    from bertjax.glue.config import GlueConfig as GlueConfig
    from bertjax.inference.embed import embed as embed
    from bertjax.inference.fill_mask import fill_mask as fill_mask
    from bertjax.inference.generate import generate as generate
    from bertjax.inference.likelihood import pseudo_log_likelihood as pseudo_log_likelihood
    from bertjax.inference.predict import predict as predict
    from bertjax.interop.huggingface import from_pretrained as from_pretrained
    from bertjax.interop.huggingface import save_pretrained as save_pretrained
    from bertjax.interop.pretrained import Pretrained as Pretrained
    from bertjax.model import linen as linen
    from bertjax.model.bert import encode as encode
    from bertjax.model.bert import init_params as init_params
    from bertjax.model.bert import mlm_logits as mlm_logits
    from bertjax.model.bert import pretraining_logits as pretraining_logits
    from bertjax.model.bert import task_logits as task_logits
    from bertjax.model.decoding import DecodeState as DecodeState
    from bertjax.model.encoder_decoder import EncoderDecoder as EncoderDecoder
    from bertjax.model.generation import decode_step as decode_step
    from bertjax.model.generation import generate_tokens as generate_tokens
    from bertjax.model.generation import start_decoding as start_decoding
    from bertjax.model.generation_config import GenerationConfig as GenerationConfig
    from bertjax.model.initializers import InitializationConfig as InitializationConfig
    from bertjax.model.logits_processing import OutputVocabulary as OutputVocabulary
    from bertjax.model.prefix import Prefix as Prefix
    from bertjax.model.search import Beams as Beams
    from bertjax.model.search import Generated as Generated
    from bertjax.model.search import beam_search as beam_search
    from bertjax.objectives.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
    from bertjax.objectives.masking import MaskingConfig as MaskingConfig
    from bertjax.objectives.masking import Vocabulary as Vocabulary
    from bertjax.objectives.masking import mask_packed_tokens as mask_packed_tokens
    from bertjax.objectives.masking import mask_tokens as mask_tokens
    from bertjax.objectives.nsp import pretraining_loss as pretraining_loss
    from bertjax.objectives.nsp import pretraining_normalizers as pretraining_normalizers
    from bertjax.pretrain.config import ModelConfig as ModelConfig
    from bertjax.pretrain.config import PretrainConfig as PretrainConfig
    from bertjax.tasks.classification.config import ClassificationConfig as ClassificationConfig
    from bertjax.tasks.classification.losses import classification_loss as classification_loss
    from bertjax.tasks.classification.losses import (
        classification_normalizers as classification_normalizers,
    )
    from bertjax.tasks.classification.losses import multi_label_loss as multi_label_loss
    from bertjax.tasks.classification.losses import regression_loss as regression_loss
    from bertjax.tasks.embedding.config import EmbeddingConfig as EmbeddingConfig
    from bertjax.tasks.multiple_choice.config import MultipleChoiceConfig as MultipleChoiceConfig
    from bertjax.tasks.multiple_choice.losses import multiple_choice_loss as multiple_choice_loss
    from bertjax.tasks.multiple_choice.losses import (
        multiple_choice_normalizers as multiple_choice_normalizers,
    )
    from bertjax.tasks.question_answering.config import (
        QuestionAnsweringConfig as QuestionAnsweringConfig,
    )
    from bertjax.tasks.question_answering.losses import (
        question_answering_loss as question_answering_loss,
    )
    from bertjax.tasks.question_answering.losses import (
        question_answering_normalizers as question_answering_normalizers,
    )
    from bertjax.tasks.seq2seq.config import Seq2SeqConfig as Seq2SeqConfig
    from bertjax.tasks.summarization_extractive.config import (
        ExtractiveSummarizationConfig as ExtractiveSummarizationConfig,
    )
    from bertjax.tasks.token_classification.config import (
        TokenClassificationConfig as TokenClassificationConfig,
    )
    from bertjax.text.tokenizer import load_tokenizer as load_tokenizer
    from bertjax.train.hosts_config import HostsConfig as HostsConfig
    from bertjax.train.loop_config import LoopConfig as LoopConfig
    from bertjax.train.lora import LoraConfig as LoraConfig
    from bertjax.train.optimizer import OPTIMIZERS as OPTIMIZERS
    from bertjax.train.optimizer import OptimizerConfig as OptimizerConfig
    from bertjax.train.param_groups import ParamGroup as ParamGroup
    from bertjax.train.sharding import MeshConfig as MeshConfig
    from bertjax.train.step import Loss as Loss
    from bertjax.train.step import StepConfig as StepConfig
    from bertjax.train.step import init_state as init_state
    from bertjax.train.step import make_eval_step as make_eval_step
    from bertjax.train.step import make_train_step as make_train_step
    from bertjax.train.telemetry.trackers import TelemetryConfig as TelemetryConfig

__version__ = "0.1.0"

_PUBLIC: dict[str, tuple[str, ...]] = {
    "api": ("fit",),
    "config": ("BertConfig", "EncoderDecoderConfig", "Execution"),
    "errors": ("UserError",),
    "finetune.config": ("FinetuneConfig",),
    "glue.config": ("GlueConfig",),
    "inference.embed": ("embed",),
    "inference.fill_mask": ("fill_mask",),
    "inference.generate": ("generate",),
    "inference.likelihood": ("pseudo_log_likelihood",),
    "inference.predict": ("predict",),
    "interop.huggingface": ("from_pretrained", "save_pretrained"),
    "interop.pretrained": ("Pretrained",),
    "model.bert": ("encode", "init_params", "mlm_logits", "pretraining_logits", "task_logits"),
    "model.decoding": ("DecodeState",),
    "model.encoder_decoder": ("EncoderDecoder",),
    "model.generation": ("decode_step", "generate_tokens", "start_decoding"),
    "model.generation_config": ("GenerationConfig",),
    "model.initializers": ("InitializationConfig",),
    "model.linen": ("linen",),
    "model.logits_processing": ("OutputVocabulary",),
    "model.prefix": ("Prefix",),
    "model.search": ("Beams", "Generated", "beam_search"),
    "objectives.linear_cross_entropy": ("linear_cross_entropy",),
    "objectives.masking": ("MaskingConfig", "Vocabulary", "mask_packed_tokens", "mask_tokens"),
    "objectives.nsp": ("pretraining_loss", "pretraining_normalizers"),
    "pretrain.config": ("ModelConfig", "PretrainConfig"),
    "tasks.classification.config": ("ClassificationConfig",),
    "tasks.classification.losses": (
        "classification_loss",
        "classification_normalizers",
        "multi_label_loss",
        "regression_loss",
    ),
    "tasks.embedding.config": ("EmbeddingConfig",),
    "tasks.multiple_choice.config": ("MultipleChoiceConfig",),
    "tasks.multiple_choice.losses": ("multiple_choice_loss", "multiple_choice_normalizers"),
    "tasks.question_answering.config": ("QuestionAnsweringConfig",),
    "tasks.question_answering.losses": (
        "question_answering_loss",
        "question_answering_normalizers",
    ),
    "tasks.seq2seq.config": ("Seq2SeqConfig",),
    "tasks.summarization_extractive.config": ("ExtractiveSummarizationConfig",),
    "tasks.token_classification.config": ("TokenClassificationConfig",),
    "text.tokenizer": ("load_tokenizer",),
    "train.hosts_config": ("HostsConfig",),
    "train.loop_config": ("LoopConfig",),
    "train.lora": ("LoraConfig",),
    "train.optimizer": ("OPTIMIZERS", "OptimizerConfig"),
    "train.param_groups": ("ParamGroup",),
    "train.sharding": ("MeshConfig",),
    "train.step": ("Loss", "StepConfig", "init_state", "make_eval_step", "make_train_step"),
    "train.telemetry.trackers": ("TelemetryConfig",),
}
"""Public names by module."""

_HOMES = {name: f"bertjax.{module}" for module, names in _PUBLIC.items() for name in names}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
        module = importlib.import_module(_HOMES[name])
        value = module if name == "linen" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
