"""Makes a workdir of a whole translator's weights: the reference system's checkpoint (.pt, .npz, .safetensors), or a safetensors file of ours.

Evaluation, translation and export take the workdir as they take that of a training run, and signvit_jax.train goes on from it with a fresh optimizer.
The model is that of --config; without it, that of the file, where it says: reference numbers and safetensors files of ours do.
The vocabulary is --tokenizer, a tokenizer.json of ours or a BERT vocab.txt; without it, that of the file or of the config.
Exit codes: 0 done, 1 failed, 2 weights, vocabulary and config do not fit each other, or the workdir is in use.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from signvit_jax.cli.common import parse_with_optional_config, parser, set_up_jax
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json, with_ctc_target
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.exit_codes import DONE
from signvit_jax.runtime.streams import clean
from signvit_jax.text.tokenizer import Tokenizer, load_bert_vocabulary


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "python -m signvit_jax.convert --weights=reference.pt --config=reference:vocab.txt --workdir=runs/reference",
    )
    flags.add_argument(
        "--weights",
        required=True,
        type=local_path,
        help="a .pt, .npz or .safetensors file of a whole model",
    )
    flags.add_argument(
        "--workdir",
        required=True,
        type=local_path,
        help="folder to make; it must hold no checkpoint yet",
    )
    flags.add_argument(
        "--tokenizer",
        type=local_path,
        metavar="FILE",
        help="a tokenizer.json of ours, or a BERT vocab.txt",
    )
    arguments, config = parse_with_optional_config(flags, argv)
    set_up_jax()

    from signvit_jax.checkpoints.from_weights import write_converted
    from signvit_jax.weights.tensor_files import read_description, read_tensors

    description = read_description(arguments.weights)
    config = config or _config_of(arguments.weights, description)
    tokenizer, glosses = _tokenizers(arguments.tokenizer, config, description)
    config = with_ctc_target(config, "gloss" if glosses else "text")
    count = write_converted(
        arguments.workdir, config, tokenizer, glosses, read_tensors(arguments.weights)
    )
    print(f"{clean(str(arguments.workdir))}: {count:,} parameters, {tokenizer.vocab_size:,} tokens")
    return DONE


def _config_of(weights: Path, description: Mapping[str, str]) -> Config:
    """What the file says of its own model. Raises ConfigError."""
    from signvit_jax.weights.reference import config_from_reference
    from signvit_jax.weights.tensor_files import read_text

    if "config" in description:
        return from_json(description["config"])
    if weights.suffix == ".npz" and (sizes := read_text(weights, "config")):
        return config_from_reference(json.loads(sizes))
    raise ConfigError(
        f"{weights} does not say what model it is of; give its config, such as --config=reference:vocab.txt"
    )


def _tokenizers(
    file: Path | None, config: Config, description: Mapping[str, str]
) -> tuple[Tokenizer, Tokenizer | None]:
    """Of words and, where the file has one, of glosses. Raises ConfigError and TokenizerError."""
    glosses = (
        Tokenizer.from_json(description["gloss_tokenizer"])
        if "gloss_tokenizer" in description
        else None
    )
    if file is not None:
        is_ours = file.suffix == ".json"
        return Tokenizer.from_json(
            file.read_text(encoding="utf-8")
        ) if is_ours else load_bert_vocabulary(file, config.tokenizer), glosses
    if "tokenizer" in description:
        return Tokenizer.from_json(description["tokenizer"]), glosses
    if config.tokenizer.name == "bert":
        return load_bert_vocabulary(config.tokenizer.vocab_file, config.tokenizer), glosses
    raise ConfigError(
        "the words of these weights are not known; give --tokenizer=FILE, a tokenizer.json of ours or a BERT vocab.txt"
    )
