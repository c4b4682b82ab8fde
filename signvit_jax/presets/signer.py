r"""Learn your own signs in minutes, on two CPU cores: a few of them, a few takes of each.

    signvit record --output=my_signs --text="thank you" --text=please ...
    python -m tfds_builders.build video_folder --data_dir=data --csv=my_signs/clips.csv \
        --videos=my_signs --short_side=128
    python -m signvit_jax.train --config=signer --workdir=runs/my_signs --config.data.data_dir=data

For recordings of a webcam or a phone: ten signs or sentences, ten takes each, of one person
(docs/own_signs.md). It is `quickstart` with a view that is cut out of larger images, motion in
place of colors (of a few takes the model would learn clothes and rooms by heart), stronger
augmentation, a least number of steps for few clips, and no attention between frames: a clip of one
sign does not teach CTC where in it the sign is, so no frame may see more than 0.7 s around it.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.update(
        {
            "model": {
                "encoder": {"view_size": 48, "colors": False},
                "temporal": {"num_attention_layers": 0},
            },
            "data": {
                "name": "video_folder",
                "image_size": 96,
                "frame_rate": 8.33,
                "num_frames": 64,
                "frame_buckets": (32, 64),
                "augment": {
                    "rotate": 8.0,
                    "translate": 0.1,
                    "scale": 0.2,
                    "brightness": 0.3,
                    "contrast": 0.3,
                    "saturation": 0.4,
                    "hue": 0.1,
                    "speed": 0.3,
                    "frame_jitter": 0.3,
                },
            },
            "training": {
                "num_epochs": 1,
                "min_steps": 1000,
                "ctc_flat_start_steps": 1000,
                "ctc_flat_start_frames": "moving",
                "eval_every_n_epochs": 25,
                "save_every_n_epochs": 25,
            },
            # CTC, which learns from single signs, is not sure when one is made.
            "inference": {"rest_detection": "motion", "rest_evidence": 0.0},
        }
    )
    return config
