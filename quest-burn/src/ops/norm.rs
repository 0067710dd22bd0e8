use burn::nn::RmsNorm;
#[cfg(feature = "cube")]
use burn::tensor::Tensor;

/// The norms of each query head and each key head, before RoPE.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    query: RmsNorm,
    keys: RmsNorm,
    /// Their weights, `[2, head_dim]`.
    #[cfg(feature = "cube")]
    gammas: Tensor<2>,
}

impl HeadNorms {
    /// The two norms of an attention layer.
    ///
    /// # Panics
    ///
    /// When their epsilons differ.
    pub fn new(query: RmsNorm, keys: RmsNorm) -> Self {
        assert!(
            query.epsilon == keys.epsilon,
            "norms of queries and keys: expected one epsilon, found {} and {}",
            query.epsilon,
            keys.epsilon
        );
        Self {
            #[cfg(feature = "cube")]
            gammas: Tensor::stack(vec![query.gamma.val(), keys.gamma.val()], 0),
            query,
            keys,
        }
    }

    #[cfg(feature = "cube")]
    pub(crate) fn gammas(&self) -> Tensor<2> {
        self.gammas.clone()
    }

    #[cfg(feature = "cube")]
    pub(crate) fn epsilon(&self) -> f64 {
        self.query.epsilon
    }

    /// The norm of query heads.
    pub fn query(&self) -> &RmsNorm {
        &self.query
    }

    /// The norm of key heads.
    pub fn keys(&self) -> &RmsNorm {
        &self.keys
    }
}
