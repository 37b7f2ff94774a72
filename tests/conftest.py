"""What tests of several folders begin with."""

import pytest


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory):
    """What a Stable Diffusion holds of encoders, and a CLIP: tiny, random, saved as published ones are."""
    import diffusers
    import torch
    import transformers

    def shaken(model):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        return model

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.3,
    )
    shaken(vae).save_pretrained(folder / "stable/vae")
    letters = [*"abcdefghijklmnopqrstuvwxyz,"]  # no merges: a caption is read letter by letter
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = dict(bos_token_id=len(pieces) - 2, eos_token_id=len(pieces) - 1, pad_token_id=len(pieces) - 1)
    sizes = dict(hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    words = transformers.CLIPTextConfig(vocab_size=len(pieces), max_position_embeddings=20, **ends, **sizes)
    shaken(transformers.CLIPTextModel(words)).save_pretrained(folder / "stable/text_encoder")
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=20).save_pretrained(
        folder / "stable/tokenizer"
    )
    eyes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config=words.to_dict(), vision_config=dict(image_size=20, patch_size=5, **eyes)
    )
    shaken(transformers.CLIPModel(config)).save_pretrained(folder / "clip")
    pictures = transformers.CLIPImageProcessor(
        size=dict(shortest_edge=20), crop_size=dict(height=20, width=20), image_mean=[0.4, 0.5, 0.6]
    )
    pictures.save_pretrained(folder / "clip")
    return str(folder / "stable"), str(folder / "clip")
