use burn::nn::attention::MultiHeadAttention;
use thiserror::Error;

use super::QuestAttention;

/// A [`MultiHeadAttention`] that [`QuestAttention`] cannot reproduce.
#[derive(Error, Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConversionError {
    /// The softmax has an extra one in its denominator.
    #[error("multi-head attention: expected the ordinary softmax, found the quiet softmax")]
    QuietSoftmax,
}

impl TryFrom<MultiHeadAttention> for QuestAttention {
    type Error = ConversionError;

    /// Takes over the trained weights of an attention layer.
    ///
    /// The outputs are those of the given layer under a causal mask.
    fn try_from(attention: MultiHeadAttention) -> Result<Self, ConversionError> {
        if attention.quiet_softmax {
            return Err(ConversionError::QuietSoftmax);
        }
        Ok(Self {
            q_proj: attention.query,
            k_proj: attention.key,
            v_proj: attention.value,
            o_proj: attention.output,
            q_norm: None,
            k_norm: None,
            rope: None,
            dropout: attention.dropout,
            scale: 1.0 / (attention.d_k as f64).sqrt(),
            soft_cap: None,
            window: None,
            temperature: None,
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_heads,
            head_dim: attention.d_k,
        })
    }
}
