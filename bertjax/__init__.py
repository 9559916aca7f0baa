"""BERT in JAX and Flax: pre-training and fine-tuning, from a laptop to a Cloud TPU pod.

The names below are the public face. They are imported when they are first used, so that
`import bertjax` costs nothing and loads neither TensorFlow nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.api import fit
    from bertjax.config import BertConfig, Execution
    from bertjax.errors import UserError
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.inference.embed import embed
    from bertjax.inference.fill_mask import fill_mask
    from bertjax.inference.likelihood import pseudo_log_likelihood
    from bertjax.inference.predict import predict
    from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
    from bertjax.model import linen
    from bertjax.model.bert import (
        encode,
        init_params,
        mlm_logits,
        pretraining_logits,
        task_logits,
    )
    from bertjax.objectives.losses import (
        classification_loss,
        classification_normalizers,
        multi_label_loss,
        question_answering_loss,
        question_answering_normalizers,
        regression_loss,
    )
    from bertjax.objectives.masking import MaskingConfig, Vocabulary, mask_tokens
    from bertjax.objectives.nsp import pretraining_loss, pretraining_normalizers
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.tasks.classification.config import ClassificationConfig
    from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
    from bertjax.text.tokenizer import load_tokenizer
    from bertjax.train.optimizer import OPTIMIZERS, OptimizerConfig
    from bertjax.train.step import Loss, StepConfig, init_state, make_eval_step, make_train_step

__version__ = "0.1.0"

_HOMES = {
    "BertConfig": "bertjax.config",
    "ClassificationConfig": "bertjax.tasks.classification.config",
    "Execution": "bertjax.config",
    "FinetuneConfig": "bertjax.finetune.config",
    "Loss": "bertjax.train.step",
    "MaskingConfig": "bertjax.objectives.masking",
    "OPTIMIZERS": "bertjax.train.optimizer",
    "OptimizerConfig": "bertjax.train.optimizer",
    "PretrainConfig": "bertjax.pretrain.config",
    "Pretrained": "bertjax.interop.huggingface",
    "QuestionAnsweringConfig": "bertjax.tasks.question_answering.config",
    "StepConfig": "bertjax.train.step",
    "UserError": "bertjax.errors",
    "Vocabulary": "bertjax.objectives.masking",
    "classification_loss": "bertjax.objectives.losses",
    "classification_normalizers": "bertjax.objectives.losses",
    "embed": "bertjax.inference.embed",
    "encode": "bertjax.model.bert",
    "fill_mask": "bertjax.inference.fill_mask",
    "fit": "bertjax.api",
    "from_pretrained": "bertjax.interop.huggingface",
    "init_params": "bertjax.model.bert",
    "init_state": "bertjax.train.step",
    "linen": "bertjax.model.linen",
    "load_tokenizer": "bertjax.text.tokenizer",
    "make_eval_step": "bertjax.train.step",
    "make_train_step": "bertjax.train.step",
    "mask_tokens": "bertjax.objectives.masking",
    "mlm_logits": "bertjax.model.bert",
    "multi_label_loss": "bertjax.objectives.losses",
    "predict": "bertjax.inference.predict",
    "pretraining_logits": "bertjax.model.bert",
    "pretraining_loss": "bertjax.objectives.nsp",
    "pretraining_normalizers": "bertjax.objectives.nsp",
    "pseudo_log_likelihood": "bertjax.inference.likelihood",
    "question_answering_loss": "bertjax.objectives.losses",
    "question_answering_normalizers": "bertjax.objectives.losses",
    "regression_loss": "bertjax.objectives.losses",
    "save_pretrained": "bertjax.interop.huggingface",
    "task_logits": "bertjax.model.bert",
}

__all__ = [
    "OPTIMIZERS",
    "BertConfig",
    "ClassificationConfig",
    "Execution",
    "FinetuneConfig",
    "Loss",
    "MaskingConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "Pretrained",
    "QuestionAnsweringConfig",
    "StepConfig",
    "UserError",
    "Vocabulary",
    "classification_loss",
    "classification_normalizers",
    "embed",
    "encode",
    "fill_mask",
    "fit",
    "from_pretrained",
    "init_params",
    "init_state",
    "linen",
    "load_tokenizer",
    "make_eval_step",
    "make_train_step",
    "mask_tokens",
    "mlm_logits",
    "multi_label_loss",
    "predict",
    "pretraining_logits",
    "pretraining_loss",
    "pretraining_normalizers",
    "pseudo_log_likelihood",
    "question_answering_loss",
    "question_answering_normalizers",
    "regression_loss",
    "save_pretrained",
    "task_logits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if name == "linen" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
