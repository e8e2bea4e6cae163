"""Models of Hugging Face, made from configurations of their own, and PEFT's adapters on them."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from zoo_models.operators import declare_operators

declare_operators()

Built = tuple[torch.nn.Module, Any, Any]

TINY = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**TINY, **IDS, "num_key_value_heads": 1, "head_dim": 8}
OLD = {"vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, **IDS}
T5 = {"vocab_size": 37, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, **IDS}
BART = {
    "vocab_size": 37,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **IDS,
}
IMAGE = {**TINY, "image_size": 32, "patch_size": 8, "num_labels": 3}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 3}
AUDIO = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_labels": 3,
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
}


def tokens(*, labels: int | None = None, lengths: tuple[int, ...] = (6, 4)) -> dict[str, torch.Tensor]:
    """Two rows of tokens, padded at their ends."""
    ids = torch.randint(3, 37, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    return batch if labels is None else batch | {"labels": torch.randint(0, labels, (len(lengths),))}


def pairs() -> dict[str, torch.Tensor]:
    """Two rows of tokens for an encoder and for a decoder."""
    return tokens() | {"decoder_input_ids": torch.randint(3, 37, (2, 4))}


def image(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def sound(length: int = 400) -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, length)}


def model(name: str, settings: dict[str, Any], batch: Callable[[], Any], output: Any = None) -> Callable[[], Built]:
    """A model by the name of its class, with the configuration that belongs to it."""

    def build() -> Built:
        kind = getattr(transformers, name)
        return kind(kind.config_class(**settings)), batch(), output

    return build


def experts(name: str, settings: dict[str, Any], batch: Callable[[], Any]) -> Callable[[], Built]:
    """A mixture of experts by products that PyTorch has in float64, too; its own choice has float32 alone."""

    def build() -> Built:
        module, inputs, output = model(name, settings, batch)()
        module.set_experts_implementation("batched_mm")
        return module, inputs, output

    return build


def adapted(name: str, settings: dict[str, Any], make: Callable[[Any], Any], batch: Callable[[], Any]) -> Any:
    """A model with an adapter of PEFT, away from its start, where it is the model itself."""

    def build() -> Built:
        import peft

        module, inputs, output = model(name, settings, batch)()
        wrapped = peft.get_peft_model(module, make(peft))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        return wrapped, inputs, output

    return build


def labelled() -> dict[str, torch.Tensor]:
    return tokens(labels=2)


def logits_of_last(outputs: Any) -> torch.Tensor:
    """The logits after the last token."""
    return outputs.logits[:, -1]


DECODERS = {
    "GPT-2": model("GPT2LMHeadModel", OLD, tokens),
    "GPT-2, last token": model("GPT2LMHeadModel", OLD, tokens, logits_of_last),
    "GPT-2, classifier": model("GPT2ForSequenceClassification", OLD, labelled),
    "OPT": model("OPTForCausalLM", {**TINY, **IDS, "ffn_dim": 24, "word_embed_proj_dim": 16}, tokens),
    "BLOOM": model("BloomForCausalLM", {"vocab_size": 37, "hidden_size": 16, "n_layer": 2, "n_head": 2, **IDS}, tokens),
    "GPT-NeoX": model("GPTNeoXForCausalLM", {**TINY, **IDS}, tokens),
    "GPT-Neo": model(
        "GPTNeoForCausalLM",
        {
            "vocab_size": 37,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 16,
            "window_size": 4,
            **IDS,
        },
        tokens,
    ),
    "GPT-J": model("GPTJForCausalLM", {**OLD, "rotary_dim": 4}, tokens),
    "CodeGen": model("CodeGenForCausalLM", {**OLD, "n_head": 4, "n_embd": 32, "rotary_dim": 4}, tokens),
    "LLaMA": model("LlamaForCausalLM", GROUPED, tokens),
    "Qwen2": model("Qwen2ForCausalLM", GROUPED, tokens),
    "Qwen3": model("Qwen3ForCausalLM", GROUPED, tokens),
    "Mistral": model("MistralForCausalLM", {**GROUPED, "sliding_window": 4}, tokens),
    "Gemma": model("GemmaForCausalLM", GROUPED, tokens),
    "Gemma2": model("Gemma2ForCausalLM", {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}, tokens),
    "Gemma3": model("Gemma3ForCausalLM", {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}, tokens),
    "Phi": model("PhiForCausalLM", {**TINY, **IDS}, tokens),
    "Phi-3": model("Phi3ForCausalLM", {**GROUPED, "original_max_position_embeddings": 16}, tokens),
    "StableLM": model("StableLmForCausalLM", {**TINY, **IDS, "num_key_value_heads": 2}, tokens),
    "OLMo2": model("Olmo2ForCausalLM", {**TINY, **IDS}, tokens),
    "Cohere": model("CohereForCausalLM", {**TINY, **IDS, "num_key_value_heads": 1}, tokens),
    "Falcon": model("FalconForCausalLM", {**TINY, **IDS}, tokens),
    "StarCoder2": model("Starcoder2ForCausalLM", {**TINY, **IDS, "num_key_value_heads": 1}, tokens),
    "SmolLM3": model("SmolLM3ForCausalLM", {**TINY, **IDS, "num_key_value_heads": 1}, tokens),
    "Granite": model("GraniteForCausalLM", {**TINY, **IDS, "num_key_value_heads": 1}, tokens),
}
ENCODERS = {
    "BERT": model("BertForSequenceClassification", TINY, labelled),
    "BERT, masked": model("BertForMaskedLM", TINY, tokens),
    "BERT, no head": model("BertModel", TINY, tokens, "last_hidden_state"),
    "RoBERTa": model("RobertaForSequenceClassification", {**TINY, "pad_token_id": 1}, labelled),
    "DistilBERT": model(
        "DistilBertForSequenceClassification",
        {"vocab_size": 37, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16},
        labelled,
    ),
    "ELECTRA": model("ElectraForSequenceClassification", {**TINY, "embedding_size": 8}, labelled),
    "ALBERT": model("AlbertForSequenceClassification", {**TINY, "embedding_size": 8}, labelled),
    "DeBERTa": model(
        "DebertaForSequenceClassification",
        {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        labelled,
    ),
    "DeBERTa-v2": model(
        "DebertaV2ForSequenceClassification",
        {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4},
        labelled,
    ),
    "MPNet": model("MPNetForSequenceClassification", {**TINY, "pad_token_id": 1}, labelled),
    "ModernBERT": model(
        "ModernBertForSequenceClassification", {**TINY, **IDS, "cls_token_id": 1, "sep_token_id": 2}, labelled
    ),
    "FNet": model("FNetForSequenceClassification", TINY, lambda: {"input_ids": tokens()["input_ids"]}),
}
PAIRS = {
    "T5": model("T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 0}, pairs),
    "T5, encoder": model("T5EncoderModel", T5, tokens, "last_hidden_state"),
    "BART": model("BartForConditionalGeneration", BART, pairs),
    "mBART": model("MBartForConditionalGeneration", BART, pairs),
    "Pegasus": model("PegasusForConditionalGeneration", BART, pairs),
    "Marian": model("MarianMTModel", BART, pairs),
}
VISION = {
    "ViT": model("ViTForImageClassification", IMAGE, image),
    "DeiT": model("DeiTForImageClassification", IMAGE, image),
    "BEiT": model("BeitForImageClassification", {**IMAGE, "use_relative_position_bias": True}, image),
    "DINOv2": model("Dinov2ForImageClassification", IMAGE, image),
    "ConvNeXt": model("ConvNextForImageClassification", STAGES, image),
    "ConvNeXt V2": model("ConvNextV2ForImageClassification", STAGES, image),
    "ResNet": model("ResNetForImageClassification", {**STAGES, "embedding_size": 8}, image),
    "RegNet": model("RegNetForImageClassification", {**STAGES, "embedding_size": 8, "groups_width": 4}, image),
    "Swin": model(
        "SwinForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2, 1],
            "num_heads": [2, 2],
            "window_size": 4,
            "num_labels": 3,
        },
        image,
    ),
    "CLIP": model(
        "CLIPModel",
        {
            "text_config": {**TINY, **IDS},
            "vision_config": {**TINY, "image_size": 32, "patch_size": 8},
            "projection_dim": 8,
        },
        lambda: tokens() | image(),
        "image_embeds",
    ),
    "SigLIP, images": model("SiglipVisionModel", IMAGE, image, "pooler_output"),
}
SOUND = {
    "wav2vec2": model("Wav2Vec2ForSequenceClassification", AUDIO, sound),
    "HuBERT": model("HubertForSequenceClassification", AUDIO, sound),
    "Whisper": model(
        "WhisperForConditionalGeneration",
        {
            **BART,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 16,
            "begin_suppress_tokens": None,
            "suppress_tokens": None,
        },
        lambda: {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": torch.randint(3, 37, (2, 4))},
    ),
    "audio spectrogram transformer": model(
        "ASTForAudioClassification",
        {
            **TINY,
            "num_mel_bins": 16,
            "max_length": 20,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "num_labels": 3,
        },
        lambda: {"input_values": torch.randn(2, 20, 16)},
    ),
}
OTHERS = {
    "Mamba": model(
        "MambaForCausalLM",
        {"vocab_size": 37, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, **IDS},
        tokens,
    ),
    "Mamba2": model(
        "Mamba2ForCausalLM",
        {
            "vocab_size": 37,
            "hidden_size": 16,
            "state_size": 4,
            "num_hidden_layers": 1,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
            **IDS,
        },
        tokens,
    ),
    "Mixtral": experts("MixtralForCausalLM", {**GROUPED, "num_local_experts": 3, "sliding_window": None}, tokens),
    "Qwen2-MoE": experts(
        "Qwen2MoeForCausalLM",
        {
            **TINY,
            **IDS,
            "num_key_value_heads": 1,
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
        tokens,
    ),
    "OLMoE": experts("OlmoeForCausalLM", {**TINY, **IDS, "num_experts": 3, "num_experts_per_tok": 2}, tokens),
    "GPT-2 with LoRA": adapted(
        "GPT2LMHeadModel",
        OLD,
        lambda p: p.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
        tokens,
    ),
    "LLaMA with LoRA": adapted(
        "LlamaForCausalLM",
        GROUPED,
        lambda p: p.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        tokens,
    ),
    "LLaMA with DoRA": adapted(
        "LlamaForCausalLM",
        GROUPED,
        lambda p: p.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        tokens,
    ),
    "LLaMA with IA3": adapted(
        "LlamaForCausalLM",
        GROUPED,
        lambda p: p.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
        tokens,
    ),
    "BERT with LoRA": adapted(
        "BertForSequenceClassification",
        TINY,
        lambda p: p.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"),
        labelled,
    ),
    "ViT with LoRA": adapted(
        "ViTForImageClassification",
        IMAGE,
        lambda p: p.LoraConfig(r=2, target_modules=["q_proj", "query"], modules_to_save=["classifier"]),
        image,
    ),
}
MODELS: dict[str, Callable[[], Built]] = DECODERS | ENCODERS | PAIRS | VISION | SOUND | OTHERS
