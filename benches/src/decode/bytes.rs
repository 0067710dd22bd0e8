use burn::tensor::DType;
use quest_burn::{
    cache::{DigestStorage, Int8Digests, KvStorage},
    digest::DigestKind,
    policy::PolicyKind,
};
use quest_burn_models::config::ModelConfig;

use super::DecodeOptions;
use crate::model::LoadedModel;

/// Bytes that a step must read and write, if every byte goes once through the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepBytes {
    /// Every weight but the embeddings of other tokens.
    pub weights: u64,
    /// Keys, values and digests.
    pub cache: u64,
}

/// What a step reads of the KV cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reads {
    pub batch: usize,
    pub context: usize,
    pub page_size: usize,
    /// Nothing for dense attention.
    pub budget: Option<usize>,
    /// Steps and layers that a choice of pages serves.
    pub per_choice: usize,
    pub dense_layers: usize,
    pub digest: DigestKind,
    pub digests: DigestStorage,
    pub kv_cache: KvStorage,
}

/// Element types of embeddings, and of the cache's rows where they are full.
#[derive(Clone, Copy, Debug)]
struct Dtypes {
    embedding: DType,
    cache: DType,
}

impl StepBytes {
    pub(super) fn of(
        options: &DecodeOptions,
        loaded: &LoadedModel,
        (batch, context): (usize, usize),
        policy: PolicyKind,
        budget: Option<usize>,
    ) -> Self {
        let reads = Reads {
            batch,
            context,
            page_size: options.cache_options.page_size,
            budget,
            per_choice: match policy {
                PolicyKind::Reuse(options) => options.every.get() * options.layers.get(),
                _ => 1,
            },
            dense_layers: options.quest.dense_layers,
            digest: options.digest,
            digests: options.digests,
            kv_cache: options.kv_cache,
        };
        let (config, dtype) = (loaded.model.config(), loaded.model.dtype());
        // Of an embedding that the projection to logits does not share, a step reads a row.
        let unread = match loaded.model.has_tied_head() {
            true => (config.vocab_size * config.d_model * dtype.size()) as u64,
            false => 0,
        };
        let weight_bytes = match batch {
            1 => loaded.read_bytes(),
            // Several rows read all channels.
            _ => loaded.weight_bytes(),
        };
        let embedding = loaded.model.embedding_dtype();
        let dtypes = Dtypes {
            embedding,
            cache: dtype,
        };
        Self::counted(config, weight_bytes - unread, dtypes, &reads)
    }

    /// Of a model with `weight_bytes` bytes of weights.
    fn counted(config: &ModelConfig, weight_bytes: u64, dtypes: Dtypes, reads: &Reads) -> Self {
        let (dtype, element) = (dtypes.cache, dtypes.cache.size());
        let embedding = (config.vocab_size * config.d_model) as u64;
        // Tied embeddings are read whole, as the output projection.
        let unread = if config.tie_word_embeddings {
            0
        } else {
            embedding
        };
        let token = (reads.batch * config.d_model) as u64;
        let size = dtypes.embedding.size() as u64;
        let weights = weight_bytes + token * size - unread * size;

        // A key and a value of each KV head of each sequence.
        let heads = reads.batch * config.n_kv_heads;
        let pair = 2 * heads * reads.kv_cache.bytes_per_row(config.head_dim, dtype);
        let all = reads.context * pair;
        let chosen = |budget: usize| {
            let pages = reads.context.div_ceil(reads.page_size);
            let digests = match reads.digests {
                DigestStorage::Full => {
                    let digest = reads.digest.shape(config.head_dim);
                    pages * heads * digest.iter().product::<usize>() * element
                }
                DigestStorage::Int8 => {
                    heads * Int8Digests::bytes(reads.digest, pages, config.head_dim)
                }
            };
            let tokens = budget / reads.page_size * reads.page_size;
            digests / reads.per_choice + tokens.min(reads.context) * pair
        };
        let dense = match reads.budget {
            None => config.n_layers,
            Some(_) => reads.dense_layers.min(config.n_layers),
        };
        let sparse = config.n_layers - dense;
        let cache = dense * all + sparse * reads.budget.map_or(0, chosen);
        Self {
            weights,
            cache: cache as u64,
        }
    }

    /// Both together.
    pub(super) fn total(&self) -> u64 {
        self.weights + self.cache
    }
}

#[cfg(test)]
mod tests {
    use quest_burn::inference::WeightFormat;

    use super::*;
    use crate::model::ShapeName;

    const READS: Reads = Reads {
        batch: 1,
        context: 32768,
        page_size: 16,
        budget: Some(2048),
        per_choice: 1,
        dense_layers: 2,
        digest: DigestKind::MinMax,
        digests: DigestStorage::Full,
        kv_cache: KvStorage::Full,
    };

    fn all(dtype: DType) -> Dtypes {
        Dtypes {
            embedding: dtype,
            cache: dtype,
        }
    }

    fn floor_ms(shape: ShapeName, reads: Reads) -> f64 {
        let config = shape.config();
        StepBytes::counted(&config, 2 * config.n_parameters(), all(DType::F16), &reads).total()
            as f64
            / 4.3e9
    }

    #[test]
    fn quantised_projections_are_read_in_their_bytes() {
        let config = ShapeName::Llama2_7b.config();
        let weights = |format| {
            let bytes = config.weight_bytes(DType::F16, format).unwrap();
            StepBytes::counted(&config, bytes, all(DType::F16), &READS).weights as f64
        };
        let full = weights(WeightFormat::Full);
        // 6.48 of 6.61 billion weights that are read are projections'; 8.125 and 4.25 bits of 16.
        assert!((weights(WeightFormat::Int8) / full - 0.518).abs() < 0.002);
        assert!((weights(WeightFormat::Int4) / full - 0.280).abs() < 0.002);
    }

    #[test]
    fn floors_of_a_7b_model_at_the_bandwidth_of_an_h200() {
        let dense = Reads {
            budget: None,
            ..READS
        };
        // Weights alone 3.07 ms; dense 7.06, Quest 3.79 at 32K and 5.24 at 128K.
        assert!((floor_ms(ShapeName::Llama2_7b, dense) - 7.06).abs() < 0.05);
        assert!((floor_ms(ShapeName::Llama2_7b, READS) - 3.79).abs() < 0.05);
        let long = Reads {
            context: 131_072,
            ..READS
        };
        assert!((floor_ms(ShapeName::Llama2_7b, long) - 5.24).abs() < 0.05);
        assert!((floor_ms(ShapeName::Llama3_8b, long) - 4.03).abs() < 0.05);
    }

    #[test]
    fn bytes_of_a_tiny_model_are_those_counted_by_hand() {
        let reads = Reads {
            batch: 3,
            context: 64,
            page_size: 8,
            budget: Some(16),
            per_choice: 1,
            dense_layers: 1,
            digest: DigestKind::MinMax,
            digests: DigestStorage::Full,
            kv_cache: KvStorage::Full,
        };
        let config = ShapeName::Tiny.config();
        let weight_bytes = 4 * config.n_parameters();
        let bytes = StepBytes::counted(&config, weight_bytes, all(DType::F32), &reads);
        // Two projections of 64 x 64 and two of 64 x 32, three of 64 x 128, two norms per layer;
        // the last norm, the output projection, three embeddings.
        let layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64;
        assert_eq!(bytes.weights, (4 * layer + 64 + 256 * 64 + 3 * 64) * 4);
        // 3 sequences, 2 heads of 16 channels, key and value: 192. One layer of 64 tokens, three
        // of 8 digests and 16 tokens.
        assert_eq!(bytes.cache, (64 + 3 * (8 + 16)) * 192 * 4);
        // A choice that serves two steps.
        let reused = Reads {
            per_choice: 2,
            ..reads
        };
        let bytes = StepBytes::counted(&config, weight_bytes, all(DType::F32), &reused);
        assert_eq!(bytes.cache, (64 + 3 * (4 + 16)) * 192 * 4);
        // In 8 bits: 6 heads with 2 rows of 16 bytes and a scale.
        let packed = Reads {
            digests: DigestStorage::Int8,
            ..reads
        };
        let bytes = StepBytes::counted(&config, weight_bytes, all(DType::F32), &packed);
        assert_eq!(bytes.cache, (64 + 3 * 16) * 192 * 4 + 3 * 8 * 6 * 36);
        // A key and a value of 6 heads: 16 bytes and a scale each. Digests stay: 6 heads of 2 rows.
        let int8 = Reads {
            kv_cache: KvStorage::Int8,
            ..reads
        };
        let bytes = StepBytes::counted(&config, weight_bytes, all(DType::F32), &int8);
        let pair = 2 * 6 * (16 + 4);
        assert_eq!(bytes.cache, (64 + 3 * 16) * pair + 3 * 8 * 6 * 2 * 16 * 4);
    }
}
