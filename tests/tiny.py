"""The libraries' own networks, tiny and random, for tests to compare with and to load."""

import torch


def shaken(model, std=0.15):
    """Every weight counts, those that begin at zero, too."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def unet_2d(widths, attention_levels=(0,), heads=2, n_blocks=2, norm_groups=8, **options):
    """diffusers' U-Net of Stable Diffusion: 4 latent channels, captions of 12 channels."""
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttn" * (level in attention_levels) for level in range(len(widths))]
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=widths, layers_per_block=n_blocks,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)), attention_head_dim=heads,
        cross_attention_dim=12, norm_num_groups=norm_groups, **options,
    )  # fmt: skip


def clip_texts():
    """A tokenizer that reads letter by letter, a reader of its 56 tokens, and the sizes of that."""
    import transformers

    letters = [*"abcdefghijklmnopqrstuvwxyz,"]  # no merges
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = dict(hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ends = dict(bos_token_id=len(pieces) - 2, eos_token_id=len(pieces) - 1, pad_token_id=len(pieces) - 1)
    config = transformers.CLIPTextConfig(vocab_size=len(pieces), max_position_embeddings=20, **ends, **sizes)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=20)
    return tokenizer, shaken(transformers.CLIPTextModel(config)), sizes


def wan_base(seed=0):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    sizes = dict(num_attention_heads=2, attention_head_dim=12, freq_dim=16, ffn_dim=32, num_layers=2)
    return WanTransformer3DModel(in_channels=4, out_channels=4, text_dim=8, **sizes).eval()


def wan_vae():
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    statistics = dict(latents_mean=[0.1, -0.1, 0.2, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5])
    return AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, **statistics).eval()
