"""Create a workdir from the weights of a complete translator: the reference system's checkpoint
(.pt, .npz, .safetensors), or a safetensors file that `signvit export` wrote.

`signvit eval`, `translate` and `export` take the workdir like that of a training run, and
`signvit train` continues from it with a fresh optimizer.

--config is the config of the model. Leave it out if the weights file describes its model, as the
files of `signvit export` and the reference .npz files do. --tokenizer is the vocabulary: a
tokenizer.json of this project, or a BERT vocab.txt. Without it, the vocabulary in the weights file
is used, or else that of the config.

Exit codes: 0 done, 1 failed, 2 weights, vocabulary and config do not fit together, or the workdir
is in use.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from signvit_jax.cli.config_flags import parse_with_optional_config
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json, with_ctc_target
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import parser
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.standard_streams import clean
from signvit_jax.text.tokenizer import Tokenizer, load_bert_vocabulary


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "signvit convert --weights=reference.pt --config=reference:vocab.txt "
        "--workdir=runs/reference",
    )
    flags.add_argument(
        "--weights",
        required=True,
        type=local_path,
        help="a .pt, .npz or .safetensors file of a complete model",
    )
    flags.add_argument(
        "--workdir",
        required=True,
        type=local_path,
        help="folder to create; it must hold no checkpoint yet",
    )
    flags.add_argument(
        "--tokenizer",
        type=local_path,
        metavar="FILE",
        help="a tokenizer.json that training wrote, or a BERT vocab.txt",
    )
    arguments, config = parse_with_optional_config(flags, argv)
    set_up_jax()

    from signvit_jax.checkpoints.from_weights import write_converted
    from signvit_jax.weights.tensor_files import read_description, read_tensors

    description = read_description(arguments.weights)
    config = config or _described_config(arguments.weights, description)
    tokenizer, glosses = _tokenizers(arguments.tokenizer, config, description)
    config = with_ctc_target(config, "gloss" if glosses else "text")
    count = write_converted(
        arguments.workdir, config, tokenizer, glosses, read_tensors(arguments.weights)
    )
    print(f"{clean(str(arguments.workdir))}: {count:,} parameters, {tokenizer.vocab_size:,} tokens")
    return DONE


def _described_config(weights: Path, description: Mapping[str, str]) -> Config:
    """The config that the weights file describes. Raises ConfigError if it describes none."""
    from signvit_jax.weights.reference import config_from_reference
    from signvit_jax.weights.tensor_files import read_text

    if "config" in description:
        return from_json(description["config"])
    if weights.suffix == ".npz" and (sizes := read_text(weights, "config")):
        return config_from_reference(json.loads(sizes))
    raise ConfigError(
        f"{weights} does not describe its model; give the config of that model, "
        "such as --config=reference:vocab.txt"
    )


def _tokenizers(
    file: Path | None, config: Config, description: Mapping[str, str]
) -> tuple[Tokenizer, Tokenizer | None]:
    """The tokenizer of texts and, where the weights file has one, that of glosses.

    Raises ConfigError and TokenizerError.
    """
    glosses = None
    if "gloss_tokenizer" in description:
        glosses = Tokenizer.from_json(description["gloss_tokenizer"])
    return _text_tokenizer(file, config, description), glosses


def _text_tokenizer(file: Path | None, config: Config, description: Mapping[str, str]) -> Tokenizer:
    if file is not None and file.suffix == ".json":
        return Tokenizer.from_json(file.read_text(encoding="utf-8"))
    if file is not None:
        return load_bert_vocabulary(file, config.tokenizer)
    if "tokenizer" in description:
        return Tokenizer.from_json(description["tokenizer"])
    if config.tokenizer.name == "bert":
        return load_bert_vocabulary(config.tokenizer.vocab_file, config.tokenizer)
    raise ConfigError(
        "the vocabulary of these weights is not known; "
        "give --tokenizer=FILE, a tokenizer.json or a BERT vocab.txt"
    )
