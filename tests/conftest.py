"""What tests of several folders begin with: tiny random models, saved as the published ones are."""

from dataclasses import replace

import pytest
from tiny import clip_texts, shaken, unet_2d, wan_base, wan_vae


@pytest.fixture(scope="session")
def stable_folder(tmp_path_factory):
    """A Stable Diffusion that sees 16 x 16 pixels and reads letters; beside it a motion adapter."""
    import diffusers
    import torch

    folder = tmp_path_factory.mktemp("stable")
    torch.manual_seed(0)
    shaken(unet_2d((16, 32), heads=2, n_blocks=1)).save_pretrained(folder / "unet")
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, scaling_factor=0.3, **blocks
    )
    shaken(vae).save_pretrained(folder / "vae")
    noise = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    diffusers.PNDMScheduler(**noise, skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    tokenizer, reader, _ = clip_texts()
    reader.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = dict(motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8)
    motion = diffusers.MotionAdapter(block_out_channels=(16, 32), motion_max_seq_length=8, **sizes)
    shaken(motion).save_pretrained(folder / "motion")
    return folder


@pytest.fixture(scope="session")
def encoder_folders(stable_folder, tmp_path_factory):
    """A Stable Diffusion, of which the autoencoder and the reader count, and a CLIP."""
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    _, reader, sizes = clip_texts()
    seen = dict(image_size=20, patch_size=5) | sizes | dict(hidden_size=8, num_hidden_layers=3)
    config = transformers.CLIPConfig(text_config=reader.config.to_dict(), vision_config=seen)
    shaken(transformers.CLIPModel(config)).save_pretrained(folder)
    size = dict(size=dict(shortest_edge=20), crop_size=dict(height=20, width=20), image_mean=[0.4, 0.5, 0.6])
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return str(stable_folder), str(folder)


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory):
    """A whole Wan pipeline as a repository on the hub lays it out."""
    import diffusers
    import tokenizers
    import torch
    import transformers

    from fourd_minimal.pretrained.wan_text import ENDINGS

    torch.manual_seed(0)
    words = [*sorted({*" ".join(ENDINGS).split(), "ball"})]
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="</s>")
    config = transformers.UMT5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    reader = transformers.UMT5EncoderModel(config)
    flow = dict(flow_shift=5.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    scheduler = diffusers.UniPCMultistepScheduler(**flow)
    path = tmp_path_factory.mktemp("wan")
    diffusers.WanPipeline(tokenizer, reader, wan_vae(), scheduler, wan_base()).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with the smallest 4DM, trained for a few steps; not to be written into."""
    from fourd_minimal.cli.train import Train
    from fourd_minimal.configs.four_diffusion import FOUR_DM

    folder = tmp_path_factory.mktemp("weights")
    Train("four-diffusion", "smoke", out=folder, settings=FOUR_DM["smoke"]).run()
    return folder


@pytest.fixture(scope="module")
def base():
    """A multi-view model without motion modules."""
    import torch

    from fourd_minimal.configs.four_diffusion import FOUR_DM
    from fourd_minimal.systems.four_diffusion import FourDM

    torch.manual_seed(0)
    return FourDM(FOUR_DM["smoke"].model, motion=False).requires_grad_(False)


@pytest.fixture(scope="module")
def latent_base():
    """One that works on latents, and so cannot say anything about renders."""
    from fourd_minimal.configs.four_diffusion import FOUR_DM
    from fourd_minimal.systems.four_diffusion import FourDM

    model = FOUR_DM["smoke"].model
    return FourDM(replace(model, unet=replace(model.unet, image_channels=4)), motion=False)


@pytest.fixture
def video():
    """Three frames of 16 x 16 pixels: a coloured square on white."""
    import torch

    frames = torch.ones(3, 3, 16, 16)
    frames[:, :, 4:12, 5:11] = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.5
    return frames
